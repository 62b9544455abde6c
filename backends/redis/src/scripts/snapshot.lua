-- One subscription at one moment. ARGV: name.
-- Answers nil, or: its fields, its counters, in flight, waiting below the frontier, the lowest
-- unsettled position there (empty: none), pairs of block and unsettled count, the stream's head, and
-- of a native group what it gave to us and nobody claimed, and what it gave to others.
S = keys_of(ARGV[1])
local meta = redis.call('HGETALL', S.meta)
if #meta == 0 then return false end
local open, lowest, in_flight, waiting = {}, '', 0, 0
local function add(position)
  local block = position:sub(1, 12)
  open[block] = (open[block] or 0) + 1
  if lowest == '' or position < lowest then lowest = position end
end
for _, key in ipairs({ S.due, S.suspects }) do
  for _, position in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    waiting = waiting + 1
    add(position)
  end
end
for _, entry in ipairs(redis.call('ZRANGE', S.blocked, 0, -1)) do
  waiting = waiting + 1
  add(entry:sub(-32))
end
for _, epoch in ipairs(redis.call('HKEYS', S.leases)) do
  local it = lease(epoch)
  in_flight = in_flight + it.left
  each_held(it, add)
end
local unclaimed, others = {}, {}
if known() and S.group then
  local here = {}
  each_ours(function(position) here[position] = true end)
  local last = group_end()
  for i = 1, #meta, 2 do
    if last and meta[i] == 'frontier' then meta[i + 1] = last end
  end
  for _, entry in ipairs(last and redis.call('XPENDING', STREAM, S.name, '-', '+', 10000) or {}) do
    local position = position_of(entry[1])
    if not here[position] then
      local to = is_ours(entry[2]) and unclaimed or others
      to[#to + 1] = position
    end
  end
end
local blocks = {}
for block, n in pairs(open) do
  blocks[#blocks + 1] = block
  blocks[#blocks + 1] = n
end
return { meta, redis.call('HGETALL', S.count), in_flight, waiting, lowest, blocks, head(), unclaimed, others }
