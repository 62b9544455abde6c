-- Moves a subscription to just behind a position. ARGV: name, position or latest.
S = keys_of(ARGV[1])
if redis.call('EXISTS', S.meta) == 0 then return 'gone' end
local to, last = ARGV[2], head()
if to == 'latest' or to > last then to = last end
forget_all()
redis.call('HSET', S.meta, 'base', to, 'frontier', to, 'claimed', 0)
redis.call('HINCRBY', S.meta, 'gen', 1)
redis.call('HINCRBY', S.meta, 'ver', 1)
wake(S.name)
return to
