-- An ephemeral subscription is still somebody's. ARGV: name.
S = keys_of(ARGV[1])
if redis.call('EXISTS', S.meta) == 1 then redis.call('HSET', S.meta, 'alive', now()) end
return 1
