-- Appends one frame, unless an event of it is there already: then nothing is written and the
-- duplicates are named by their place in the frame.
-- ARGV: window (us), most ids of a bucket, most bytes (0: no bound), bytes, frame, identities.
local window, most_ids, most_bytes, bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local t = now()
local n = redis.call('HMGET', NUMBERS, 'bucket', 'since', 'bytes')
local bucket, since = tonumber(n[1] or 0), tonumber(n[2] or 0)
local ids = {}
for i = 6, #ARGV do ids[#ids + 1] = ARGV[i] end

local duplicates = {}
for b = bucket - 1, bucket do
  local there = redis.call('SMISMEMBER', P .. 'd:' .. b, unpack(ids))
  for i, yes in ipairs(there) do
    if yes == 1 then duplicates[#duplicates + 1] = i - 1 end
  end
end
if #duplicates > 0 then return { 'duplicate', unpack(duplicates) } end
if most_bytes > 0 and tonumber(n[3] or 0) + bytes > most_bytes then return { 'full' } end

-- The first write must be one that a server out of memory refuses, or it would let the rest pass.
redis.call('HINCRBY', NUMBERS, 'bytes', bytes)
redis.call('HINCRBY', NUMBERS, 'events', #ids)
if t - since > window or redis.call('SCARD', P .. 'd:' .. bucket) + #ids > most_ids then
  redis.call('DEL', P .. 'd:' .. (bucket - 1))
  bucket = bucket + 1
  redis.call('HSET', NUMBERS, 'bucket', bucket, 'since', t)
end
redis.call('SADD', P .. 'd:' .. bucket, unpack(ids))
return { 'appended', redis.call('XADD', STREAM, '*', 'f', ARGV[5]) }
