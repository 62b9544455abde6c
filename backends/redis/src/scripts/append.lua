-- Appending, and which events are there already: ids of two halves of a window, each ended by time
-- or number.
local n = redis.call('HMGET', NUMBERS, 'bucket', 'since', 'bytes', 'first', 'last')
local bucket, since, kept_bytes = tonumber(n[1] or 0), tonumber(n[2] or 0), tonumber(n[3] or 0)
local first, last = n[4], n[5]
local missing = redis.call('EXISTS', STREAM) == 0

-- Where the whole stream is gone, that is noted.
local function note_missing()
  if missing and first then
    note_loss(first, last, redis.call('HGET', NUMBERS, 'events') or '')
    first, kept_bytes = nil, 0
  end
end

-- The places of known ids, from 0; nothing was changed yet.
local function known(ids)
  local places = {}
  for b = bucket - 1, bucket do
    local there = redis.call('SMISMEMBER', P .. 'd:' .. b, unpack(ids))
    for i, yes in ipairs(there) do
      if yes == 1 then places[#places + 1] = i - 1 end
    end
  end
  return places
end

-- The first write must be one that a server out of memory refuses, or it would let the rest pass.
local function remember(ids, bytes, window, most)
  redis.call('HINCRBY', NUMBERS, 'bytes', bytes)
  redis.call('HINCRBY', NUMBERS, 'events', #ids)
  local t = now()
  if t - since > window or redis.call('SCARD', P .. 'd:' .. bucket) + #ids > most then
    redis.call('DEL', P .. 'd:' .. (bucket - 1))
    bucket = bucket + 1
    redis.call('HSET', NUMBERS, 'bucket', bucket, 'since', t)
  end
  redis.call('SADD', P .. 'd:' .. bucket, unpack(ids))
end

-- Adds an entry whose id is above every one before, whatever became of the stream or the clock.
local function add(...)
  if last and missing then
    missing = false
    local ms, seq = string.match(last, '^(%d+)-(%d+)$')
    local id = '*'
    if math.floor(now() / 1000) <= tonumber(ms) then id = ms .. '-' .. string.format('%.0f', seq + 1) end
    last = redis.call('XADD', STREAM, id, ...)
  else
    local id = redis.call('XADD', STREAM, '*', ...)
    if last and not is_after(id, last) then
      redis.call('XDEL', STREAM, id)
      redis.call('XSETID', STREAM, last)
      id = redis.call('XADD', STREAM, '*', ...)
    end
    last = id
  end
  redis.call('HSET', NUMBERS, 'last', last)
  if not first then
    first = last
    redis.call('HSET', NUMBERS, 'first', first)
  end
  return last
end
