-- Appends one frame, unless an event of it is there already: then nothing is written and the
-- duplicates are named by their place in the frame, with where the first one stands.
-- ARGV: window (us), most ids of a half, most bytes (0: no bound), bytes, frame, identities.
local most_bytes, bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local ids = {}
for i = 6, #ARGV do ids[#ids + 1] = ARGV[i] end
note_missing()
local duplicates = known(ids)
if #duplicates > 0 then return { 'duplicate', unpack(duplicates) } end
if most_bytes > 0 and kept_bytes + bytes > most_bytes then return { 'full' } end
make_room(#ids, bytes, tonumber(ARGV[1]), tonumber(ARGV[2]))
local id = add('f', ARGV[5])
local places = {}
for i, identity in ipairs(ids) do
  places[2 * i - 1] = identity
  places[2 * i] = id .. '.' .. (i - 1)
end
redis.call('HSET', P .. 'd:' .. bucket, unpack(places))
return { 'appended', id }
