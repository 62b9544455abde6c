-- Removes dead letters for good. ARGV: letters. Answers how many were there.
local done, touched = 0, {}
for _, id in ipairs(ARGV) do
  local x = redis.call('HMGET', P .. 'x:' .. id, 'sub', 'pos', 'gen')
  if x[1] then
    done = done + 1
    redis.call('DEL', P .. 'x:' .. id)
    redis.call('ZREM', DEAD, id)
    S, loaded = keys_of(x[1]), {}
    redis.call('ZREM', S.letters, id)
    local position = x[2]
    if redis.call('HGET', S.meta, 'gen') == x[3] then
      count(position, 'x', -1)
      count(position, 'd', 1)
      store_counts()
    end
    if redis.call('HDEL', S.parked, position) == 1 then
      leave_lane(position)
      touched[S.name] = true
    end
  end
end
for name in pairs(touched) do wake(name) end
return done
