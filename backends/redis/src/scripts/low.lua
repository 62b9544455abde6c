-- Up to where nobody needs the stream. Answers triples of name, version and the lowest position that
-- it still needs (empty: it needs nothing up to its frontier), and its frontier.
local answer = {}
for _, name in ipairs(redis.call('SMEMBERS', NAMES)) do
  S, loaded = keys_of(name), {}
  local m = redis.call('HMGET', S.meta, 'ver', 'frontier')
  if m[1] then
    local lowest = ''
    local function add(position)
      if lowest == '' or position < lowest then lowest = position end
    end
    for _, position in ipairs(redis.call('ZRANGE', S.due, 0, -1)) do add(position) end
    for _, position in ipairs(redis.call('ZRANGE', S.suspects, 0, 0)) do add(position) end
    for _, entry in ipairs(redis.call('ZRANGE', S.blocked, 0, -1)) do add(entry:sub(-32)) end
    for _, epoch in ipairs(redis.call('HKEYS', S.leases)) do
      for _, run in ipairs(lease(epoch).runs) do add(run.head .. string.format('%04x', run.first)) end
    end
    answer[#answer + 1] = name
    answer[#answer + 1] = m[1]
    answer[#answer + 1] = lowest
    answer[#answer + 1] = m[2]
  end
end
return answer
