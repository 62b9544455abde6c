-- Deletes a subscription and its dead letters. ARGV: name, only if ephemeral and silent for so many
-- us (0: in any case).
S = keys_of(ARGV[1])
local m = redis.call('HMGET', S.meta, 'epoch', 'eph', 'alive')
if not m[1] then
  redis.call('SREM', NAMES, S.name)
  return 'gone'
end
local silent = tonumber(ARGV[2])
if silent > 0 and (m[2] ~= '1' or now() - tonumber(m[3]) < silent) then return 'alive' end
forget_all()
for _, id in ipairs(redis.call('ZRANGE', S.letters, 0, -1)) do
  redis.call('DEL', P .. 'x:' .. id)
  redis.call('ZREM', DEAD, id)
end
redis.call('DEL', S.letters, S.meta)
-- The epochs of a later subscription of this name begin above.
if m[2] ~= '1' then redis.call('HSET', P .. 'epochs', S.name, m[1]) end
redis.call('SREM', NAMES, S.name)
wake(S.name)
return 'deleted'
