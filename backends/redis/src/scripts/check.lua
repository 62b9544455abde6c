-- Whether what must be in the stream is there. ARGV: on a stream of others the lowest position that
-- is still needed (empty: a stream of ours, all of it is), then if the stream was counted: the ids of
-- its first and last entry (0-0: none), and how many events and bytes stand there.
-- Answers count (the stream is to be counted first), or: ok, losses so far, events lost so far, the
-- position up to which books are to be mended (empty: none), then what nobody was told yet.
local n = redis.call('HMGET', NUMBERS, 'first', 'last', 'events', 'need', 'tail')
local head, tail = redis.call('XRANGE', STREAM, '-', '+', 'COUNT', 1)[1], nil
if head then tail = redis.call('XREVRANGE', STREAM, '+', '-', 'COUNT', 1)[1][1] end
head = head and head[1]
if ARGV[1] ~= '' then
  -- Others may remove what nobody of ours needs. `need` and `tail` are the oldest entry that was needed
  -- last time, and the newest.
  local from = string.format('%.0f-%.0f', tonumber(ARGV[1]:sub(1, 16), 16), tonumber(ARGV[1]:sub(17, 28), 16))
  local function is_gone(id)
    return id and not is_after(from, id) and #redis.call('XRANGE', STREAM, id, id) == 0
  end
  if is_gone(n[4]) or is_gone(n[5]) then note_loss(n[4] or from, n[5] or n[4], '') end
  local next = redis.call('XRANGE', STREAM, from, '+', 'COUNT', 1)[1]
  if next then redis.call('HSET', NUMBERS, 'need', next[1]) else redis.call('HDEL', NUMBERS, 'need') end
  if tail then redis.call('HSET', NUMBERS, 'tail', tail) else redis.call('HDEL', NUMBERS, 'tail') end
  if tail and (not n[2] or is_after(tail, n[2])) then redis.call('HSET', NUMBERS, 'last', tail) end
elseif n[1] and (not head or is_after(head, n[1])) then
  if not head then
    note_loss(n[1], n[2] or n[1], n[3] or '')
    redis.call('HSET', NUMBERS, 'bytes', 0)
  elseif ARGV[2] ~= head or ARGV[3] ~= tail then
    return { 'count' }
  else
    note_loss(n[1], head, string.format('%.0f', tonumber(n[3]) - tonumber(ARGV[4])))
    redis.call('HSET', NUMBERS, 'bytes', ARGV[5], 'first', head)
  end
elseif head and not n[1] then
  redis.call('HSET', NUMBERS, 'first', head)
end
local answer = { 'ok' }
local m = redis.call('HMGET', NUMBERS, 'losses', 'lost', 'mend')
answer[2], answer[3], answer[4] = m[1] or '0', m[2] or '0', m[3] or ''
for _, told in ipairs(redis.call('LRANGE', P .. 'losses', 0, -1)) do answer[#answer + 1] = told end
redis.call('DEL', P .. 'losses')
return answer
