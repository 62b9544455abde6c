-- Native consumer groups, on streams that others consume too. Redis's own list of pending entries
-- says what is unsettled; what one of our members holds, or what waits for a retry, stands beside
-- it as in any other subscription and is kept from growing idle, so that nobody takes it over.
-- A delivery with a body of its own was redriven: it is ours alone, and not pending.
-- Whether there is such a subscription; what is needed to know about it first.
local function known()
  local m = redis.call('HMGET', S.meta, 'ver', 'group', 'kept', 'takeover', 'again')
  S.group = m[2] == '1'
  S.kept, S.takeover = tonumber(m[3] or 0), tonumber(m[4] or 0)
  S.again = m[5]
  return m[1]
end

-- The end of what the group was given, or nothing where there is no such group.
local function group_end()
  local groups = redis.pcall('XINFO', 'GROUPS', STREAM)
  if groups.err then return nil end
  for _, info in ipairs(groups) do
    local named, last = false, nil
    for i = 1, #info, 2 do
      if info[i] == 'name' then named = info[i + 1] == S.name end
      if info[i] == 'last-delivered-id' then last = info[i + 1] end
    end
    if named then return end_of(last) end
  end
end

local function is_redriven(position)
  return redis.call('HEXISTS', S.body, position) == 1
end

-- Everything that our members hold, and what waits.
local function each_ours(visit)
  for _, epoch in ipairs(redis.call('HKEYS', S.leases)) do
    local it = lease(epoch)
    each_held(it, function(position, k) visit(position, it, k) end)
  end
  for _, key in ipairs({ S.due, S.suspects }) do
    for _, position in ipairs(redis.call('ZRANGE', key, 0, -1)) do visit(position) end
  end
  for _, entry in ipairs(redis.call('ZRANGE', S.blocked, 0, -1)) do visit(entry:sub(-32)) end
end

-- Creates the group again behind the last position up to which everything was settled. Whatever is
-- read again and is still ours is recognised when it is claimed.
local function restore_group(consumer)
  local mark = redis.call('HGET', S.meta, 'mark')
  -- Up to here it is read again.
  S.again = redis.call('HGET', S.meta, 'frontier')
  redis.call('HSET', S.meta, 'again', S.again)
  local missing, last = redis.call('EXISTS', STREAM) == 0, redis.call('HGET', NUMBERS, 'last')
  redis.call('XGROUP', 'CREATE', STREAM, S.name, mark, 'MKSTREAM')
  -- Ids go on above those before.
  if missing and last then redis.call('XSETID', STREAM, last) end
  local adopted = redis.call('HGET', S.meta, 'adopted')
  if position_of(mark) < adopted then redis.call('HSET', S.meta, 'adopted', position_of(mark)) end
  each_ours(function(position)
    if not is_redriven(position) then
      redis.call('XCLAIM', STREAM, S.name, consumer, 0, id_of(position), 'JUSTID', 'FORCE')
    end
  end)
end

local names = {}
local function is_ours(consumer)
  if names[consumer] == nil then names[consumer] = redis.call('SISMEMBER', S.consumers, consumer) == 1 end
  return names[consumer]
end

-- Who has it pending: us, others, or nobody.
local function owner(position)
  local id = id_of(position)
  local pending = redis.pcall('XPENDING', STREAM, S.name, id, id, 1)
  if pending.err or not pending[1] then return nil end
  return is_ours(pending[1][2]) and 'us' or 'others'
end

-- Whether nobody kept our deliveries from growing idle, so that others may have taken them.
local function unkept(t)
  return t - S.kept > S.takeover / 2
end

-- Ends a delivery for the group; whether it was still ours to end.
local function leave_group(position, t)
  if not S.group or is_redriven(position) then return true end
  if unkept(t) and owner(position) == 'others' then return false end
  local id = id_of(position)
  if redis.call('XACK', STREAM, S.name, id) == 1 then
    if S.again and position <= S.again and group_end() < position then redis.call('ZADD', S.done, 0, position) end
    return true
  end
  -- Where it is gone from the stream too, nobody else has it.
  if group_end() then return #redis.call('XRANGE', STREAM, id, id) == 0 end
  -- The group is gone, and its list with it: when this is read again it is passed over.
  redis.call('ZADD', S.done, 0, position)
  return true
end

-- Notes up to where everything is settled, for the day on which the group is lost.
local function note_mark()
  local pending = redis.pcall('XPENDING', STREAM, S.name)
  if pending.err then return end
  local mark = pending[1] > 0 and id_before(pending[2]) or id_of(group_end())
  redis.call('HSET', S.meta, 'mark', mark)
end
