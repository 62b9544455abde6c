-- Extends deliveries. ARGV: name, lease (us), then pairs of epoch and position. Answers a letter
-- each: D, L, A, U.
S = keys_of(ARGV[1])
if redis.call('EXISTS', S.meta) == 0 then return '' end
despite_full_memory()
local till = now() + tonumber(ARGV[2])
local letters, groups = {}, {}
for i = 3, #ARGV, 2 do
  local letter, it, k = check(ARGV[i], ARGV[i + 1])
  letters[#letters + 1] = letter
  if it then
    local group = groups[it.epoch] or { it = it, n = 0, seen = {} }
    if not group.seen[k] then
      group.seen[k] = true
      group.n = group.n + 1
    end
    groups[it.epoch] = group
  end
end
for epoch, group in pairs(groups) do
  local extended = S.prefix .. 'x:' .. epoch
  if group.n == group.it.left then
    redis.call('ZADD', S.ends, till, epoch)
    redis.call('DEL', extended)
  else
    for k in pairs(group.seen) do redis.call('ZADD', extended, till, k) end
  end
end
return table.concat(letters)
