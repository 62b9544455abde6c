-- What is gone from the stream although nobody here removed it. `first` and `last` in the numbers
-- are the ids of the first and last entry that must be there.
local function is_after(a, b)
  local ms, seq = string.match(a, '^(%d+)-(%d+)$')
  local other_ms, other_seq = string.match(b, '^(%d+)-(%d+)$')
  ms, other_ms = tonumber(ms), tonumber(other_ms)
  return ms > other_ms or ms == other_ms and tonumber(seq) > tonumber(other_seq)
end

-- Notes once that the entries from one id to another are gone, with `events` in them ('': unknown).
-- The books of the subscriptions are mended later: up to there they cannot be proven.
local function note_loss(from, to, events)
  redis.call('HINCRBY', NUMBERS, 'losses', 1)
  if tonumber(events) then
    redis.call('HINCRBY', NUMBERS, 'lost', events)
    redis.call('HINCRBY', NUMBERS, 'events', '-' .. events)
  end
  redis.call('HSET', NUMBERS, 'mend', to)
  redis.call('HDEL', NUMBERS, 'first')
  redis.call('RPUSH', P .. 'losses', from .. ' ' .. to .. ' ' .. events)
end
