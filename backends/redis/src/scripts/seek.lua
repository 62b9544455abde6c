-- Moves a subscription to just behind a position. ARGV: name, position or latest.
S = keys_of(ARGV[1])
if not known() then return 'gone' end
local to, last = ARGV[2], head()
if to == 'latest' or to > last then to = last end
if S.group then
  local from = '-'
  while from do
    local pending = redis.pcall('XPENDING', STREAM, S.name, from, '+', 1000)
    if pending.err then break end
    for _, entry in ipairs(pending) do redis.call('XACK', STREAM, S.name, entry[1]) end
    from = #pending == 1000 and pending[1000][1]
  end
  if group_end() then
    redis.call('XGROUP', 'SETID', STREAM, S.name, id_of(to))
  else
    redis.call('XGROUP', 'CREATE', STREAM, S.name, id_of(to), 'MKSTREAM')
  end
  redis.call('HSET', S.meta, 'mark', id_of(to), 'adopted', to)
end
forget_all()
redis.call('HSET', S.meta, 'base', to, 'frontier', to, 'claimed', 0)
redis.call('HINCRBY', S.meta, 'gen', 1)
redis.call('HINCRBY', S.meta, 'ver', 1)
wake(S.name)
return to
