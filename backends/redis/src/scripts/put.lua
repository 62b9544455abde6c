-- Creates a subscription, or changes the options of the one there. ARGV: name, version expected
-- (empty: must not exist), spec, lease (us), attempts, start (earliest|latest|a position: events
-- after it), created (ns), ephemeral (0|1), patterns as JSON, idle time (us) after which a native
-- group's entries are taken over (empty: not a native group), whether ordered (0|1),
-- whether it was lost, and nothing of its former life may fit (0|1).
-- Answers created | changed | there.
S = keys_of(ARGV[1])
local version = redis.call('HGET', S.meta, 'ver')
if (version or '') ~= ARGV[2] then return 'there' end
if version then
  redis.call('HSET', S.meta, 'spec', ARGV[3], 'lease', ARGV[4], 'attempts', ARGV[5])
  redis.call('HINCRBY', S.meta, 'ver', 1)
  wake(S.name)
  return 'changed'
end
local base, last = ARGV[6], head()
if base == 'earliest' then base = string.rep('0', 32) end
if base == 'latest' or base > last then base = last end
-- Versions, epochs and generations never repeat, so that nothing of a deleted subscription of this
-- name fits the new one.
local born = redis.call('HINCRBY', NUMBERS, 'born', 1)
redis.call('HSET', S.meta, 'ver', born .. '000000', 'spec', ARGV[3], 'lease', ARGV[4], 'attempts', ARGV[5],
  'base', base, 'frontier', base, 'epoch', 0, 'gen', 0, 'claimed', 0, 'paused', 0, 'created', ARGV[7],
  'eph', ARGV[8], 'alive', now(), 'interest', cjson.encode({ { string.rep('0', 32), ARGV[9] } }))
local forgotten = redis.call('HGET', P .. 'epochs', S.name)
if forgotten then redis.call('HSET', S.meta, 'epoch', forgotten) end
redis.call('HDEL', P .. 'epochs', S.name)
if ARGV[12] == '1' then
  local life = string.format('%.0f', now() / 1000)
  redis.call('HSET', S.meta, 'ver', life .. '000', 'epoch', life, 'gen', life)
end
if ARGV[10] ~= '' then
  local made = redis.pcall('XGROUP', 'CREATE', STREAM, S.name, id_of(base), 'MKSTREAM')
  redis.call('HSET', S.meta, 'group', 1, 'takeover', ARGV[10], 'kept', now(), 'frontier', group_end(), 'adopted', base,
    'ordered', ARGV[11])
  note_mark()
  if made.err then
    redis.call('HSET', S.meta, 'adopted', group_end())
    -- It was there: we go on where it is.
    redis.call('HSET', S.meta, 'base', end_of(redis.call('HGET', S.meta, 'mark')))
  end
end
redis.call('SADD', NAMES, S.name)
wake(S.name)
return 'created'
