-- Which events are there already: ids of two halves of a window, each ended by time or number.
-- The places of known ids, from 0; nothing was changed yet.
local function known(ids)
  local bucket = tonumber(redis.call('HGET', NUMBERS, 'bucket') or 0)
  local places = {}
  for b = bucket - 1, bucket do
    local there = redis.call('SMISMEMBER', P .. 'd:' .. b, unpack(ids))
    for i, yes in ipairs(there) do
      if yes == 1 then places[#places + 1] = i - 1 end
    end
  end
  return places
end

local function remember(ids, bytes, window, most)
  -- The first write must be one that a server out of memory refuses, or it would let the rest pass.
  redis.call('HINCRBY', NUMBERS, 'bytes', bytes)
  redis.call('HINCRBY', NUMBERS, 'events', #ids)
  local n = redis.call('HMGET', NUMBERS, 'bucket', 'since')
  local bucket, since, t = tonumber(n[1] or 0), tonumber(n[2] or 0), now()
  if t - since > window or redis.call('SCARD', P .. 'd:' .. bucket) + #ids > most then
    redis.call('DEL', P .. 'd:' .. (bucket - 1))
    bucket = bucket + 1
    redis.call('HSET', NUMBERS, 'bucket', bucket, 'since', t)
  end
  redis.call('SADD', P .. 'd:' .. bucket, unpack(ids))
end
