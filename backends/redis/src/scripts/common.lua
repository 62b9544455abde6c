-- What every script begins with. KEYS[1] is the stream, KEYS[2] the prefix of everything beside it;
-- both hash to one slot. Positions are 32 hexadecimal digits: 16 of milliseconds, 12 of the entry's
-- sequence, 4 of the event's place in its frame. They sort as text.
local STREAM, P = KEYS[1], KEYS[2]
local NUMBERS, WAKE, NAMES, DEAD = P .. 'n', P .. 'w', P .. 'subs', P .. 'dead'

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end

local function id_of(position)
  return string.format('%.0f-%.0f', tonumber(position:sub(1, 16), 16), tonumber(position:sub(17, 28), 16))
end

local function position_of(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return string.format('%016x%012x', ms, seq) .. '0000'
end

-- The last position that the entry with this id could have.
local function end_of(id)
  return position_of(id):sub(1, 28) .. 'ffff'
end

-- The last id before it that has a position.
local function id_before(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  if seq == '0' then return string.format('%.0f', ms - 1) .. '-281474976710655' end
  return ms .. '-' .. string.format('%.0f', seq - 1)
end

-- The end of the last frame that was ever appended.
local function head()
  if redis.call('EXISTS', STREAM) == 0 then return string.rep('0', 32) end
  local info = redis.call('XINFO', 'STREAM', STREAM)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      if info[i + 1] == '0-0' then return string.rep('0', 32) end
      return end_of(info[i + 1])
    end
  end
end

-- What follows may run although the server is out of memory, because it leads to less: a first write
-- that is never refused opens the way for the others.
local function despite_full_memory()
  redis.call('DEL', P .. 'none')
end

local function wake(name)
  redis.call('XADD', WAKE, 'MAXLEN', '~', 256, '*', 'n', name)
end

-- The keys of a subscription.
local function keys_of(name)
  local s = P .. 's:' .. name .. ':'
  return {
    name = name, prefix = s,
    meta = s .. 'm', leases = s .. 'l', left = s .. 'r', ends = s .. 'u', due = s .. 'due',
    suspects = s .. 'sus', story = s .. 'e', lane = s .. 'k', blocked = s .. 'bl', key_of = s .. 'ek',
    parked = s .. 'pk', count = s .. 'c', held = s .. 'mh', body = s .. 'body', letters = s .. 'dl',
    consumers = s .. 'gc', done = s .. 'gd',
  }
end
