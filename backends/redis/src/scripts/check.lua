-- Whether what must be in the stream is there. ARGV: on a stream of others the lowest position that
-- is still needed (empty: a stream of ours, all of it is), and the newest entry that the asking process
-- saw (empty: none); then if the stream was counted: the ids of its first and last entry (0-0: none),
-- and how many events and bytes stand there.
-- Answers count (the stream is to be counted first), or: ok, losses so far, events lost so far, the
-- position up to which books are to be mended (empty: none), then what nobody was told yet.
local n = redis.call('HMGET', NUMBERS, 'first', 'last', 'events', 'need', 'tail', 'gone')
local head, tail = redis.call('XRANGE', STREAM, '-', '+', 'COUNT', 1)[1], nil
if head then tail = redis.call('XREVRANGE', STREAM, '+', '-', 'COUNT', 1)[1][1] end
head = head and head[1]
-- What the asking process saw, and this server never had.
local unknown = ARGV[2] ~= '' and is_after(ARGV[2], n[2] or '0-0') and is_after(ARGV[2], tail or '0-0')
if ARGV[1] ~= '' then
  -- Others may remove what nobody of ours needs. `need` and `tail` are the oldest entry that was needed
  -- last time, and the newest; `gone` is up to where a loss is noted.
  local from, to = id_of(ARGV[1]), nil
  local function is_gone(id)
    local known = is_after(from, id) or n[6] and not is_after(id, n[6])
    return not known and #redis.call('XRANGE', STREAM, id, id) == 0
  end
  for _, id in ipairs({ n[4], n[5], n[2], ARGV[2] }) do
    if id and id ~= '' and is_gone(id) and (not to or is_after(id, to)) then to = id end
  end
  if to then note_loss(n[4] or from, to, '') end
  local next = redis.call('XRANGE', STREAM, from, '+', 'COUNT', 1)[1]
  if next then redis.call('HSET', NUMBERS, 'need', next[1]) else redis.call('HDEL', NUMBERS, 'need') end
  if tail then redis.call('HSET', NUMBERS, 'tail', tail) else redis.call('HDEL', NUMBERS, 'tail') end
  if tail and (not n[2] or is_after(tail, n[2])) then redis.call('HSET', NUMBERS, 'last', tail) end
elseif n[1] and (not head or is_after(head, n[1])) then
  if not head then
    note_loss(n[1], n[2] or n[1], n[3] or '')
    if unknown then redis.call('HSET', NUMBERS, 'last', ARGV[2]) end
  elseif ARGV[3] ~= head or ARGV[4] ~= tail then
    return { 'count' }
  else
    note_loss(n[1], head, string.format('%.0f', tonumber(n[3]) - tonumber(ARGV[5])))
    redis.call('HSET', NUMBERS, 'bytes', ARGV[6], 'first', head)
  end
elseif unknown then
  -- A replica took over that lacks the end, or an older copy came back. What comes next comes behind it.
  note_loss(tail or '0-0', ARGV[2], '')
  redis.call('HSET', NUMBERS, 'last', ARGV[2])
elseif head and not n[1] then
  redis.call('HSET', NUMBERS, 'first', head)
end
local answer = { 'ok' }
local m = redis.call('HMGET', NUMBERS, 'losses', 'lost', 'mend')
answer[2], answer[3], answer[4] = m[1] or '0', m[2] or '0', m[3] or ''
for _, told in ipairs(redis.call('LRANGE', P .. 'losses', 0, -1)) do answer[#answer + 1] = told end
redis.call('DEL', P .. 'losses')
return answer
