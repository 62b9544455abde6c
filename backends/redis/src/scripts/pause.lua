-- ARGV: name, paused (0|1).
S = keys_of(ARGV[1])
if redis.call('EXISTS', S.meta) == 0 then return 'gone' end
redis.call('HSET', S.meta, 'paused', ARGV[2])
wake(S.name)
return 'changed'
