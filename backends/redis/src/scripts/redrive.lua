-- Returns dead letters to their subscriptions. ARGV: triples of letter, key (empty: none), body.
-- Answers how many were there.
local done, touched = 0, {}
for i = 1, #ARGV, 3 do
  local id = ARGV[i]
  local x = redis.call('HMGET', P .. 'x:' .. id, 'sub', 'pos', 'gen')
  if x[1] then
    done = done + 1
    redis.call('DEL', P .. 'x:' .. id)
    redis.call('ZREM', DEAD, id)
    S, loaded = keys_of(x[1]), {}
    redis.call('ZREM', S.letters, id)
    local m = redis.call('HMGET', S.meta, 'gen', 'frontier', 'ordered')
    local position, again = x[2], true
    local parked = redis.call('HGET', S.parked, position)
    if known() and S.group then m[2] = group_end() or m[2] end
    if parked then redis.call('HDEL', S.parked, position) end
    if not m[1] then
      again = false
    elseif m[1] == x[3] then
      count(position, 'x', -1)
    elseif position > m[2] or is_unsettled(position) then
      -- Since the seek it is on its way again anyway.
      again = false
    else
      count(position, 'e', 1)
    end
    if again then
      redis.call('HSET', S.body, position, ARGV[i + 2])
      if parked or ARGV[i + 1] == '' or enter_lane(position, ARGV[i + 1]) then redis.call('ZADD', S.due, 0, position) end
      store_counts()
      touched[S.name] = true
    end
  end
end
for name in pairs(touched) do wake(name) end
return done
