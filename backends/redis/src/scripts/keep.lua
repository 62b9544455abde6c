-- Keeps what our members hold, or what waits, from growing idle in a native group; takes over what
-- others left idle; creates the group again where it was lost. ARGV: name, consumer, whether what
-- that consumer was given and nobody claimed is to come back at once (0|1).
-- Answers none (no native group), or: restored (0|1), taken over, given up to others, lost.
S = keys_of(ARGV[1])
if not known() or not S.group then return false end
despite_full_memory()
local consumer, t = ARGV[2], now()
redis.call('SADD', S.consumers, consumer)
local restored, taken, gone, lost = 0, 0, 0, 0
if not group_end() then
  restore_group(consumer)
  restored = 1
elseif ARGV[3] == '0' and t - S.kept < S.takeover / 12 then
  return { 0, 0, 0, 0 }
end
-- Never lowered: what is read again after a loss must be known as such.
local last = group_end()
if last > redis.call('HGET', S.meta, 'frontier') then redis.call('HSET', S.meta, 'frontier', last) end

if S.again and last >= S.again then redis.call('HDEL', S.meta, 'again') end

local function give_up(position)
  gone = gone + 1
  redis.call('ZREM', S.due, position)
  redis.call('ZREM', S.suspects, position)
  redis.call('HDEL', S.story, position)
  leave_lane(position)
end

local check_owners = restored == 0 and unkept(t)
local waiting, leased = {}, {}
each_ours(function(position, it, k)
  if is_redriven(position) then return end
  if check_owners and owner(position) ~= 'us' then
    if it then take(it, k) end
    give_up(position)
  elseif it then
    leased[#leased + 1] = id_of(position)
  else
    waiting[#waiting + 1] = position
  end
end)
store_leases()
for i = 1, #leased, 500 do
  redis.call('XCLAIM', STREAM, S.name, consumer, 0, unpack(leased, i, math.min(i + 499, #leased)), 'JUSTID')
end
for _, position in ipairs(waiting) do
  local id = id_of(position)
  if #redis.call('XCLAIM', STREAM, S.name, consumer, 0, id, 'JUSTID') == 0 then
    if #redis.call('XRANGE', STREAM, id, id) == 0 then lost = lost + 1 end
    give_up(position)
  end
end

local adopted = redis.call('HGET', S.meta, 'adopted')
local ordered = redis.call('HGET', S.meta, 'ordered') == '1'
local function expired(entry)
  local id, from = entry[1], entry[2]
  local position = position_of(id)
  if is_unsettled(position) then return end
  local mine = is_ours(from)
  -- Of an ordered one, what we were given is claimed in its order, by any member.
  if mine and ordered and position > adopted then return end
  if #redis.call('XCLAIM', STREAM, S.name, consumer, 0, id, 'JUSTID') == 0 then
    if #redis.call('XRANGE', STREAM, id, id) == 0 then lost = lost + 1 end
    return
  end
  taken = taken + 1
  if mine then
    -- It never reached a handler.
    redis.call('ZADD', S.due, 0, position)
  else
    local told = story(position)
    told.attempts = math.max(told.attempts, entry[4])
    tell(position, told)
    redis.call('ZADD', S.suspects, 0, position)
  end
end
local idle = math.floor(S.takeover / 1000)
for _, entry in ipairs(redis.call('XPENDING', STREAM, S.name, 'IDLE', idle, '-', '+', 1000)) do expired(entry) end
if ARGV[3] == '1' then
  for _, entry in ipairs(redis.call('XPENDING', STREAM, S.name, '-', '+', 10000, consumer)) do expired(entry) end
end

-- Names of ours that nobody uses any more.
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', STREAM, S.name)) do
  local it = {}
  for i = 1, #info, 2 do it[info[i]] = info[i + 1] end
  if it.pending == 0 and it.idle > idle * 20 and it.name ~= consumer and redis.call('SISMEMBER', S.consumers, it.name) == 1 then
    redis.call('XGROUP', 'DELCONSUMER', STREAM, S.name, it.name)
    redis.call('SREM', S.consumers, it.name)
  end
end
note_mark()
redis.call('HSET', S.meta, 'kept', t)
if taken > 0 or woken then wake(S.name) end
return { restored, taken, gone, lost }
