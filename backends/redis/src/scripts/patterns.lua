-- Other patterns for events from now on. ARGV: name, version expected, spec, patterns as JSON.
S = keys_of(ARGV[1])
if redis.call('HGET', S.meta, 'ver') ~= ARGV[2] then return 'stale' end
local last, kept = head(), {}
for _, part in ipairs(cjson.decode(redis.call('HGET', S.meta, 'interest'))) do
  if part[1] < last then kept[#kept + 1] = part end
end
kept[#kept + 1] = { last, ARGV[4] }
redis.call('HSET', S.meta, 'spec', ARGV[3], 'interest', cjson.encode(kept))
redis.call('HINCRBY', S.meta, 'ver', 1)
wake(S.name)
return 'changed'
