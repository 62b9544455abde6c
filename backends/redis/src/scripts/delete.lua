-- Deletes a subscription and its dead letters. ARGV: name, only if ephemeral and silent for so many
-- us (0: in any case).
S = keys_of(ARGV[1])
local m = redis.call('HMGET', S.meta, 'epoch', 'eph', 'alive')
if not m[1] then
  redis.call('SREM', NAMES, S.name)
  return 'gone'
end
local silent = tonumber(ARGV[2])
if silent > 0 and (m[2] ~= '1' or now() - tonumber(m[3]) < silent) then return 'alive' end
if known() and S.group then
  -- A group that others are in is theirs too.
  local members = redis.pcall('XINFO', 'CONSUMERS', STREAM, S.name)
  local shared = members.err
  for _, info in ipairs(members.err and {} or members) do
    for i = 1, #info, 2 do
      if info[i] == 'name' and redis.call('SISMEMBER', S.consumers, info[i + 1]) == 0 then shared = true end
    end
  end
  if not shared then redis.call('XGROUP', 'DESTROY', STREAM, S.name) end
  redis.call('DEL', S.consumers)
end
forget_all()
for _, id in ipairs(redis.call('ZRANGE', S.letters, 0, -1)) do
  redis.call('DEL', P .. 'x:' .. id)
  redis.call('ZREM', DEAD, id)
end
redis.call('DEL', S.letters, S.meta)
-- The epochs of a later subscription of this name begin above.
if m[2] ~= '1' then redis.call('HSET', P .. 'epochs', S.name, m[1]) end
redis.call('SREM', NAMES, S.name)
wake(S.name)
return 'deleted'
