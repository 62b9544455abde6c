-- Gives up suspects that are out of attempts. ARGV: name, now of the client (ns), dead letters kept
-- (0|1), park (0|1), then pairs of position and body.
S = keys_of(ARGV[1])
if not known() then return 0 end
local attempts = tonumber(redis.call('HGET', S.meta, 'attempts') or 0)
local buried = 0
for i = 5, #ARGV, 2 do
  local position, body = ARGV[i], ARGV[i + 1]
  local told = story(position)
  if told.attempts >= attempts and redis.call('ZREM', S.suspects, position) == 1 then
    buried = buried + 1
    leave_group(position, now())
    local key = false
    if ARGV[3] == '1' then
      local error = 'its process died while handling it'
      if told.error ~= '' then error = error .. '; before that: ' .. told.error end
      if told.first == '' then told.first = ARGV[2] end
      local id = redis.call('HINCRBY', NUMBERS, 'letter', 1)
      redis.call('HSET', P .. 'x:' .. id, 'sub', S.name, 'pos', position, 'reason', 'max_attempts', 'error', error,
        'attempts', told.attempts, 'first', told.first, 'last', ARGV[2], 'body', body,
        'gen', redis.call('HGET', S.meta, 'gen'))
      redis.call('ZADD', DEAD, id, id)
      redis.call('ZADD', S.letters, id, id)
      count(position, 'x', 1)
      key = ARGV[4] == '1' and redis.call('HGET', S.key_of, position)
    else
      count(position, 'd', 1)
    end
    redis.call('HDEL', S.story, position)
    redis.call('HDEL', S.body, position)
    if key then redis.call('HSET', S.parked, position, key) else leave_lane(position) end
  end
end
store_counts()
if woken then wake(S.name) end
return buried
