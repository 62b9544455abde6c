-- Gives back everything that a member holds, as not started. ARGV: name, member.
S = keys_of(ARGV[1])
despite_full_memory()
local all = redis.call('HGETALL', S.leases)
local released = 0
for i = 1, #all, 2 do
  if all[i + 1]:sub(1, 16) == ARGV[2] then
    local it = lease(all[i])
    each_held(it, function(position, k)
      take(it, k)
      if it.flag == 's' then
        local told = story(position)
        told.attempts = told.attempts - 1
        tell(position, told)
      end
      redis.call('ZADD', it.flag == 's' and S.suspects or S.due, 0, position)
      released = released + 1
    end)
  end
end
store_leases()
redis.call('HDEL', S.held, ARGV[2], ARGV[2] .. '!')
if released > 0 then wake(S.name) end
return released
