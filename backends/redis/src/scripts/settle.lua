-- Settles runs of deliveries. ARGV: name, now of the client (ns), park (0|1), then for each
-- run seven: epoch, how (a|d|n|v|r|x), first position, count, and for r: delay
-- (us), error, ''; for x: reason, error, body.
-- Answers per run the letters of its deliveries: D, L, A, U.
S = keys_of(ARGV[1])
if not known() then return { 'gone' } end
despite_full_memory()
local t = now()
local parks = ARGV[3] == '1'

local function forget(it, position)
  if it.flag ~= 'f' then
    redis.call('HDEL', S.story, position)
    redis.call('HDEL', S.body, position)
    leave_lane(position)
  end
end

local function attempt(it, told)
  if it.flag == 's' then return told.attempts end
  return told.attempts + 1
end

local settle = {}

function settle.a(it, position)
  count(position, 'a', 1)
  forget(it, position)
end

function settle.d(it, position)
  count(position, 'd', 1)
  forget(it, position)
end

-- Not what the subscription wants.
function settle.n(it, position)
  forget(it, position)
end

function settle.v(it, position)
  if it.flag == 's' then
    local told = story(position)
    told.attempts = told.attempts - 1
    tell(position, told)
  end
  -- What was not started is as suspect as it was.
  redis.call('ZADD', it.flag == 's' and S.suspects or S.due, 0, position)
  woken = true
end

function settle.r(it, position, delay, error)
  local told = story(position)
  told.attempts = attempt(it, told)
  if told.first == '' then told.first = ARGV[2] end
  told.error = error
  tell(position, told)
  redis.call('ZADD', S.due, t + tonumber(delay), position)
  woken = true
end

function settle.x(it, position, reason, error, body)
  local told = story(position)
  if told.first == '' then told.first = ARGV[2] end
  local id = redis.call('HINCRBY', NUMBERS, 'letter', 1)
  redis.call('HSET', P .. 'x:' .. id, 'sub', S.name, 'pos', position, 'reason', reason, 'error', error,
    'attempts', attempt(it, told), 'first', told.first, 'last', ARGV[2], 'body', body,
    'gen', redis.call('HGET', S.meta, 'gen'))
  redis.call('ZADD', DEAD, id, id)
  redis.call('ZADD', S.letters, id, id)
  count(position, 'x', 1)
  redis.call('HDEL', S.story, position)
  redis.call('HDEL', S.body, position)
  local key = parks and redis.call('HGET', S.key_of, position)
  if key then
    redis.call('HSET', S.parked, position, key)
  else
    leave_lane(position)
  end
end

local answers = { 'ok' }
for i = 4, #ARGV, 7 do
  local epoch, how, letters = ARGV[i], ARGV[i + 1], {}
  each_of(ARGV[i + 2], tonumber(ARGV[i + 3]), function(position)
    local letter, it, k = check(epoch, position)
    if it then
      local ends = how == 'a' or how == 'd' or how == 'n' or how == 'x'
      if ends and not leave_group(position, t) then
        letter = 'L'
        take(it, k)
        forget(it, position)
      else
        take(it, k)
        settle[how](it, position, ARGV[i + 4], ARGV[i + 5], ARGV[i + 6])
      end
    end
    letters[#letters + 1] = letter
  end)
  answers[#answers + 1] = table.concat(letters)
end
store_leases()
store_counts()
if S.group then note_mark() end
if woken then wake(S.name) end
return answers
