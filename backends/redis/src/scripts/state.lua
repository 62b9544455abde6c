-- Shared values: `v` holds values, `vn` their versions. ARGV: operation, key, then
-- put: value | cas: version expected (empty: none), value | add: number | delete.
local V, VN = P .. 'v', P .. 'vn'
local op, key = ARGV[1], ARGV[2]
local function version()
  local n = redis.call('HINCRBY', NUMBERS, 'version', 1)
  redis.call('HSET', VN, key, n)
  return n
end
if op == 'put' then
  if redis.call('HSETNX', V, key, ARGV[3]) == 0 then return 0 end
  return version()
elseif op == 'cas' then
  if (redis.call('HGET', VN, key) or '') ~= ARGV[3] then return 0 end
  redis.call('HSET', V, key, ARGV[4])
  return version()
elseif op == 'add' then
  -- As text: numbers of Lua end at 53 bits. An overflow is an error of the server.
  redis.call('HINCRBY', V, key, ARGV[3])
  version()
  return redis.call('HGET', V, key)
elseif op == 'delete' then
  redis.call('HDEL', VN, key)
  return redis.call('HDEL', V, key)
end
