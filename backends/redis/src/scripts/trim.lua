-- Removes entries that nobody needs. ARGV: first entry id to keep, bytes removed, events removed,
-- then triples of subscription, version, and its matching events removed as JSON pairs of block and
-- count. Answers 0 where subscriptions were created or moved meanwhile. Nothing else can make a
-- settled event needed again: redriven dead letters bring their own body.
local said = {}
for i = 4, #ARGV, 3 do said[ARGV[i]] = { ARGV[i + 1], ARGV[i + 2] } end
for _, name in ipairs(redis.call('SMEMBERS', NAMES)) do
  S = keys_of(name)
  local version = redis.call('HGET', S.meta, 'ver')
  if version and (not said[name] or said[name][1] ~= version) then return 0 end
end
despite_full_memory()
for name, it in pairs(said) do
  S = keys_of(name)
  if redis.call('EXISTS', S.meta) == 1 then
    for _, pair in ipairs(cjson.decode(it[2])) do redis.call('HINCRBY', S.count, pair[1] .. 'v', pair[2]) end
  end
end
redis.call('HINCRBY', NUMBERS, 'bytes', '-' .. ARGV[2])
redis.call('HINCRBY', NUMBERS, 'events', '-' .. ARGV[3])
redis.call('HSET', NUMBERS, 'trimmed', ARGV[1])
redis.call('XTRIM', STREAM, 'MINID', ARGV[1])
local rest = redis.call('XRANGE', STREAM, '-', '+', 'COUNT', 1)[1]
if rest then redis.call('HSET', NUMBERS, 'first', rest[1]) else redis.call('HDEL', NUMBERS, 'first') end
return 1
