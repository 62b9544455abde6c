-- Extends deliveries. ARGV: name, lease (us), then for each run three: epoch, first position, count.
-- Answers gone, or ok and per run the letters of its deliveries: D, L, A, U.
S = keys_of(ARGV[1])
if redis.call('EXISTS', S.meta) == 0 then return { 'gone' } end
despite_full_memory()
local till = now() + tonumber(ARGV[2])
local answers, groups = { 'ok' }, {}
for i = 3, #ARGV, 3 do
  local epoch, letters = ARGV[i], {}
  each_of(ARGV[i + 1], tonumber(ARGV[i + 2]), function(position)
    local letter, it, k = check(epoch, position)
    letters[#letters + 1] = letter
    if it then
      local group = groups[it.epoch] or { it = it, n = 0, seen = {} }
      if not group.seen[k] then
        group.seen[k] = true
        group.n = group.n + 1
      end
      groups[it.epoch] = group
    end
  end)
  answers[#answers + 1] = table.concat(letters)
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
return answers
