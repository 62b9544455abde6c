-- Appends one entry per event, for streams that others read too; nothing where one of them is there
-- already. ARGV: window (us), most ids of a half, number of events, then each: identity, number of
-- names and values, names and values.
local ids, entries, bytes = {}, {}, 0
local at = 4
for i = 1, tonumber(ARGV[3]) do
  ids[i] = ARGV[at]
  local entry, n = {}, tonumber(ARGV[at + 1])
  for k = 1, n do
    entry[k] = ARGV[at + 1 + k]
    bytes = bytes + #entry[k]
  end
  entries[i] = entry
  at = at + 2 + n
end
local duplicates = known(ids)
if #duplicates > 0 then return { 'duplicate', unpack(duplicates) } end
remember(ids, bytes, tonumber(ARGV[1]), tonumber(ARGV[2]))
local answer = { 'appended' }
for i, entry in ipairs(entries) do answer[i + 1] = add(unpack(entry)) end
return answer
