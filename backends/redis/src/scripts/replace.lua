-- Replaces the body of a dead letter; the first original stays beside it. ARGV: letter, body before,
-- body after, original data. Answers changed | stale | gone.
local key = P .. 'x:' .. ARGV[1]
local body = redis.call('HGET', key, 'body')
if not body then return 'gone' end
if body ~= ARGV[2] then return 'stale' end
redis.call('HSET', key, 'body', ARGV[3])
redis.call('HSETNX', key, 'original', ARGV[4])
return 'changed'
