-- Leases. A lease is one field of `leases`: member (16), flag (1: f fresh events only, x mixed,
-- s one suspect), then runs of consecutive events, 32 digits of the first and 4 of the count.
-- `left` counts what is not settled; a bitmap under `b:<epoch>` says which, once some are;
-- `x:<epoch>` holds the deliveries that were extended on their own.
local S
local loaded = {}
local counts = {}
-- Whether a member that waits would find more now than when it looked.
local woken = false

local function lease(epoch)
  local known = loaded[epoch]
  if known ~= nil then return known end
  local raw = redis.call('HGET', S.leases, epoch)
  if not raw then
    loaded[epoch] = false
    return false
  end
  local it = { epoch = epoch, member = raw:sub(1, 16), flag = raw:sub(17, 17), heads = {}, runs = {}, total = 0, taken = 0, marks = {} }
  for i = 18, #raw, 36 do
    local run = { head = raw:sub(i, i + 27), first = tonumber(raw:sub(i + 28, i + 31), 16), count = tonumber(raw:sub(i + 32, i + 35), 16), at = it.total }
    it.total = it.total + run.count
    it.runs[#it.runs + 1] = run
    local same = it.heads[run.head] or {}
    same[#same + 1] = run
    it.heads[run.head] = same
  end
  it.left = tonumber(redis.call('HGET', S.left, epoch))
  it.whole = it.left == it.total
  loaded[epoch] = it
  return it
end

-- Which of the lease's deliveries a position is, from 0.
local function ordinal(it, position)
  local index = tonumber(position:sub(29), 16)
  for _, run in ipairs(it.heads[position:sub(1, 28)] or {}) do
    if index >= run.first and index < run.first + run.count then return run.at + index - run.first end
  end
end

local function is_held(it, k)
  if it.marks[k] then return false end
  return it.whole or redis.call('GETBIT', S.prefix .. 'b:' .. it.epoch, k) == 0
end

local function take(it, k)
  it.marks[k] = true
  it.left = it.left - 1
  it.taken = it.taken + 1
end

-- Calls `visit(position, k)` for everything still held.
local function each_held(it, visit)
  for _, run in ipairs(it.runs) do
    for i = 0, run.count - 1 do
      if is_held(it, run.at + i) then visit(run.head .. string.format('%04x', run.first + i), run.at + i) end
    end
  end
end

-- Calls `visit(position)` for each of a run of neighbours.
local function each_of(first, length, visit)
  if length == 1 then return visit(first) end
  local head, from = first:sub(1, 28), tonumber(first:sub(29), 16)
  for index = from, from + length - 1 do visit(head .. string.format('%04x', index)) end
end

-- Writes what `take` did.
local function store_leases()
  for epoch, it in pairs(loaded) do
    if it and it.taken > 0 then
      local bits, extended = S.prefix .. 'b:' .. epoch, S.prefix .. 'x:' .. epoch
      if it.left == 0 then
        redis.call('HDEL', S.leases, epoch)
        redis.call('HDEL', S.left, epoch)
        redis.call('ZREM', S.ends, epoch)
        redis.call('DEL', bits, extended)
        -- Its member was kept from everything else.
        if it.flag == 's' then woken = true end
      else
        redis.call('HSET', S.left, epoch, it.left)
        for k in pairs(it.marks) do redis.call('SETBIT', bits, k, 1) end
      end
      if redis.call('HINCRBY', S.held, it.member, -it.taken) <= 0 then
        redis.call('HDEL', S.held, it.member)
        -- Only now it may take a suspect.
        if redis.call('EXISTS', S.suspects) == 1 then woken = true end
      end
      it.whole, it.taken, it.marks = false, 0, {}
    end
  end
end

-- Counts n deliveries of a block of about a minute as a(cknowledged), d(ropped), x (dead), e(xtra).
local function count(position, kind, n)
  local field = position:sub(1, 12) .. kind
  counts[field] = (counts[field] or 0) + n
end

local function store_counts()
  for field, n in pairs(counts) do redis.call('HINCRBY', S.count, field, n) end
  counts = {}
end

-- Attempts, first failure and last error of a delivery that is more than fresh.
local function story(position)
  local raw = redis.call('HGET', S.story, position)
  if not raw then return { attempts = 0, first = '', error = '' } end
  local attempts, first, error = string.match(raw, '^(%d+)|(%d*)|(.*)$')
  return { attempts = tonumber(attempts), first = first, error = error }
end

local function tell(position, it)
  redis.call('HSET', S.story, position, it.attempts .. '|' .. it.first .. '|' .. it.error)
end

-- The position is settled for good: the next event of its key may come.
local function leave_lane(position)
  local key = redis.call('HGET', S.key_of, position)
  if not key then return end
  redis.call('HDEL', S.key_of, position)
  if redis.call('HGET', S.lane, key) ~= position then
    redis.call('ZREM', S.blocked, key .. '\0' .. position)
    return
  end
  local next = redis.call('ZRANGEBYLEX', S.blocked, '[' .. key .. '\0', '[' .. key .. '\0\255', 'LIMIT', 0, 1)[1]
  if not next then
    redis.call('HDEL', S.lane, key)
    return
  end
  local heir = next:sub(#key + 2)
  redis.call('ZREM', S.blocked, next)
  redis.call('HSET', S.lane, key, heir)
  redis.call('ZADD', S.due, 0, heir)
  woken = true
end

-- Enters a lane; whether it is the head of it.
local function enter_lane(position, key)
  redis.call('HSET', S.key_of, position, key)
  if redis.call('HSETNX', S.lane, key, position) == 1 then return true end
  redis.call('ZADD', S.blocked, 0, key .. '\0' .. position)
  return false
end

-- Whether a position below the frontier is unsettled: waits, is suspect, blocked, or leased.
local function is_unsettled(position)
  if redis.call('ZSCORE', S.due, position) or redis.call('ZSCORE', S.suspects, position) then return true end
  local key = redis.call('HGET', S.key_of, position)
  if key and redis.call('ZSCORE', S.blocked, key .. '\0' .. position) then return true end
  for _, epoch in ipairs(redis.call('HKEYS', S.leases)) do
    local it = lease(epoch)
    local k = it and ordinal(it, position)
    if k and is_held(it, k) then return true end
  end
  return false
end

-- Why a receipt settles nothing: L(ate), A(lready), U(nknown).
local function refusal(position)
  local m = redis.call('HMGET', S.meta, 'base', 'frontier', 'gen')
  local moved = m[3] ~= '0'
  if position > m[2] or position <= m[1] then
    if moved then return 'L' end
    return 'U'
  end
  if is_unsettled(position) then return 'L' end
  return 'A'
end

-- D(one) and the ordinal where the receipt holds the delivery.
local function check(epoch, position)
  local it = lease(epoch)
  if not it then return refusal(position) end
  local k = ordinal(it, position)
  if not k then return 'U' end
  if is_held(it, k) then return 'D', it, k end
  if it.marks[k] then return 'A' end
  return refusal(position)
end

-- Ends every lease that is over: what is left of it becomes suspect.
local function expire(t)
  local over = redis.call('ZRANGEBYSCORE', S.ends, '-inf', t, 'LIMIT', 0, 128)
  for _, epoch in ipairs(over) do
    local it = lease(epoch)
    if it then
      local own, next = {}, nil
      local extended = redis.call('ZRANGE', S.prefix .. 'x:' .. epoch, 0, -1, 'WITHSCORES')
      for i = 1, #extended, 2 do own[tonumber(extended[i])] = tonumber(extended[i + 1]) end
      each_held(it, function(position, k)
        local till = own[k]
        if till and till > t then
          if not next or till < next then next = till end
        else
          take(it, k)
          redis.call('ZADD', S.suspects, 0, position)
        end
      end)
      if next then redis.call('ZADD', S.ends, next, epoch) end
    else
      redis.call('ZREM', S.ends, epoch)
    end
  end
  if #over > 0 then store_leases() end
end
