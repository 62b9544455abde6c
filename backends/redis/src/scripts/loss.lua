-- What is gone from the stream although nobody here removed it. `first` and `last` in the numbers
-- are the ids of the first and last entry that must be there.
local function is_after(a, b)
  local ms, seq = string.match(a, '^(%d+)-(%d+)$')
  local other_ms, other_seq = string.match(b, '^(%d+)-(%d+)$')
  ms, other_ms = tonumber(ms), tonumber(other_ms)
  return ms > other_ms or ms == other_ms and tonumber(seq) > tonumber(other_seq)
end

-- What is gone and nobody claimed is claimed by nobody any more, though a process may still have it in
-- memory: frontiers move on, up to this id or to what is still there before it.
local function pass_over(to)
  for _, name in ipairs(redis.call('SMEMBERS', NAMES)) do
    local meta = keys_of(name).meta
    local frontier = redis.call('HGET', meta, 'frontier')
    if frontier then
      local from = frontier:sub(29) == 'ffff' and '(' .. id_of(frontier) or id_of(frontier)
      local next = redis.call('XRANGE', STREAM, from, '+', 'COUNT', 1)[1]
      local gone = to
      if next and not is_after(next[1], to) then gone = id_before(next[1]) end
      if end_of(gone) > frontier then redis.call('HSET', meta, 'frontier', end_of(gone)) end
    end
  end
end

-- Notes once that entries from one id up to another are gone, with `events` in them ('': unknown).
-- The books of the subscriptions are mended later: up to there they cannot be proven. Where the whole
-- stream is gone, what was in it may be published again.
local function note_loss(from, to, events)
  redis.call('HINCRBY', NUMBERS, 'losses', 1)
  if tonumber(events) then
    redis.call('HINCRBY', NUMBERS, 'lost', events)
    redis.call('HINCRBY', NUMBERS, 'events', '-' .. events)
  end
  redis.call('HSET', NUMBERS, 'mend', to, 'gone', to)
  redis.call('HDEL', NUMBERS, 'first')
  redis.call('RPUSH', P .. 'losses', from .. ' ' .. to .. ' ' .. events)
  if redis.call('XLEN', STREAM) == 0 then
    local bucket = tonumber(redis.call('HGET', NUMBERS, 'bucket') or 0)
    redis.call('DEL', P .. 'd:' .. bucket, P .. 'd:' .. (bucket - 1))
    redis.call('HSET', NUMBERS, 'bytes', 0)
  end
  pass_over(to)
end
