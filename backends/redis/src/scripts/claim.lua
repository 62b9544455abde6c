-- Moves the frontier and leases what lies between, together with what is due.
-- ARGV: name, member (16), kind (e|x), version, frontier expected, scanned to, max, ordered (0|1),
-- then fresh events: unordered one text of runs (32 + 4), ordered pairs of position and key
-- (empty: none). In a native group the consumer stands for the frontier, and fresh events are pairs
-- of what it was given by the group; the key \1 is an event that does not match.
-- Answers: gone | stale | bury, positions.. | given, positions.. | ok or idle (nothing new is wanted now),
-- epoch, frontier, next change (us), fresh taken, pairs of position and attempt, in the order to deliver
-- before the fresh ones.
S = keys_of(ARGV[1])
local member, external, max, ordered = ARGV[2], ARGV[3] == 'x', tonumber(ARGV[7]), ARGV[8] == '1'
local meta = redis.call('HMGET', S.meta, 'ver', 'frontier', 'paused', 'lease', 'attempts', 'group')
if not meta[1] then return { 'gone' } end
despite_full_memory()
local t = now()
expire(t)
if meta[1] ~= ARGV[4] then return { 'stale' } end
local frontier, lasts, attempts = meta[2], tonumber(meta[4]), tonumber(meta[5])

local function next_change()
  local next = -1
  for _, key in ipairs({ S.due, S.ends }) do
    local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    if first[2] and (next < 0 or tonumber(first[2]) - t < next) then next = math.max(0, tonumber(first[2]) - t) end
  end
  return next
end

local function grant(flag, runs, n)
  local epoch = redis.call('HINCRBY', S.meta, 'epoch', 1)
  redis.call('HSET', S.leases, epoch, member .. flag .. runs)
  redis.call('HSET', S.left, epoch, n)
  redis.call('ZADD', S.ends, t + lasts, epoch)
  redis.call('HINCRBY', S.held, member, n)
  return epoch
end

if meta[3] == '1' then return { 'idle', 0, frontier, next_change(), 0 } end
local isolating = redis.call('HGET', S.held, member .. '!')
if isolating and redis.call('HEXISTS', S.leases, isolating) == 1 then return { 'idle', 0, frontier, next_change(), 0 } end
if isolating then redis.call('HDEL', S.held, member .. '!') end

local suspects = redis.call('ZRANGE', S.suspects, 0, 31)
local hopeless = { 'bury' }
for _, position in ipairs(suspects) do
  local it = story(position)
  if it.attempts >= attempts then
    hopeless[#hopeless + 1] = position
  elseif #hopeless == 1 then
    -- An embedded member first finishes what it has, so that the suspect runs alone.
    if not external and redis.call('HEXISTS', S.held, member) == 1 then return { 'idle', 0, frontier, next_change(), 0 } end
    it.attempts = it.attempts + 1
    tell(position, it)
    redis.call('ZREM', S.suspects, position)
    local epoch = grant('s', position .. '0001', 1)
    if not external then redis.call('HSET', S.held, member .. '!', epoch) end
    return { 'ok', epoch, frontier, -1, 0, position, it.attempts }
  end
end
if #hopeless > 1 then return hopeless end

local answer, runs, n, flag = { 'ok', 0, frontier, -1, 0 }, {}, 0, 'f'
for _, position in ipairs(redis.call('ZRANGEBYSCORE', S.due, '-inf', t, 'LIMIT', 0, max)) do
  redis.call('ZREM', S.due, position)
  runs[#runs + 1] = position .. '0001'
  n, flag = n + 1, 'x'
  answer[#answer + 1] = position
  answer[#answer + 1] = story(position).attempts + 1
end

local fresh = 0

-- What the group gave us, as long as it is ours: unless it was read again after a loss.
local function adopt()
  local given = {}
  if ordered then
    -- In the order of the log, whichever of our members it was given to.
    local adopted = redis.call('HGET', S.meta, 'adopted')
    local pending = redis.pcall('XPENDING', STREAM, S.name, '(' .. id_of(adopted), '+', 1000)
    local next = { 'given' }
    for _, entry in ipairs(pending.err and {} or pending) do
      if is_ours(entry[2]) then next[#next + 1] = position_of(entry[1]) end
    end
    if #next > 1 and #ARGV == 8 then return next end
    for i = 9, #ARGV, 2 do
      if ARGV[i] ~= next[(i - 5) / 2] then return next end
      given[id_of(ARGV[i])] = true
    end
  elseif #ARGV > 8 then
    local pending = redis.pcall('XPENDING', STREAM, S.name, id_of(ARGV[9]), id_of(ARGV[#ARGV - 1]), 10000, ARGV[5])
    for _, entry in ipairs(pending.err and {} or pending) do given[entry[1]] = true end
  end
  local room = 10000 - redis.call('ZCARD', S.blocked)
  for i = 9, #ARGV, 2 do
    local position, key = ARGV[i], ARGV[i + 1]
    local id = id_of(position)
    if n >= max or room <= 0 then break end
    fresh = fresh + 1
    if ordered then redis.call('HSET', S.meta, 'adopted', position) end
    local again = position <= meta[2] and is_unsettled(position)
    if not given[id] or again then
      -- Not ours, or here already.
    elseif key == '\1' or redis.call('ZREM', S.done, position) == 1 then
      redis.call('XACK', STREAM, S.name, id)
    elseif key == '' or not ordered or enter_lane(position, key) then
      runs[#runs + 1] = position .. '0001'
      n = n + 1
      answer[#answer + 1] = position
      answer[#answer + 1] = 1
    else
      room = room - 1
    end
    if position > frontier then frontier = position:sub(1, 28) .. 'ffff' end
  end
  flag = ordered and 'x' or flag
  if frontier ~= meta[2] then redis.call('HSET', S.meta, 'frontier', frontier) end
end

if meta[6] then
  local look = n < max and adopt()
  if look and n == 0 then return look end
elseif frontier == ARGV[5] then
  local reached = ARGV[6]
  if ordered then
    flag = 'x'
    local room = 10000 - redis.call('ZCARD', S.blocked)
    for i = 9, #ARGV, 2 do
      local position, key = ARGV[i], ARGV[i + 1]
      if n >= max or room <= 0 then break end
      fresh, frontier = fresh + 1, position
      if key == '' or enter_lane(position, key) then
        runs[#runs + 1] = position .. '0001'
        n = n + 1
        answer[#answer + 1] = position
        answer[#answer + 1] = 1
      else
        room = room - 1
      end
    end
    if fresh * 2 == #ARGV - 8 then frontier = reached end
  else
    local whole = true
    for i = 1, #ARGV[9], 36 do
      local first, length = ARGV[9]:sub(i, i + 31), tonumber(ARGV[9]:sub(i + 32, i + 35), 16)
      local taken = math.min(length, max - n)
      whole = whole and taken == length
      if taken > 0 then
        runs[#runs + 1] = first .. string.format('%04x', taken)
        n, fresh = n + taken, fresh + taken
        frontier = first:sub(1, 28) .. string.format('%04x', tonumber(first:sub(29), 16) + taken - 1)
      end
    end
    if whole then frontier = reached end
  end
  if frontier ~= meta[2] then redis.call('HSET', S.meta, 'frontier', frontier) end
  if fresh > 0 then redis.call('HINCRBY', S.meta, 'claimed', fresh) end
end
answer[3], answer[5] = frontier, fresh
if n > 0 then
  answer[2] = grant(flag, table.concat(runs), n)
else
  answer[4] = next_change()
end
return answer
