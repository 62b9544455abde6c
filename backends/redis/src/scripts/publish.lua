-- Appends one frame, unless an event of it is there already: then nothing is written and the
-- duplicates are named by their place in the frame.
-- ARGV: window (us), most ids of a half, most bytes (0: no bound), bytes, frame, identities.
local most_bytes, bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local ids = {}
for i = 6, #ARGV do ids[#ids + 1] = ARGV[i] end
note_missing()
local duplicates = known(ids)
if #duplicates > 0 then return { 'duplicate', unpack(duplicates) } end
if most_bytes > 0 and kept_bytes + bytes > most_bytes then return { 'full' } end
remember(ids, bytes, tonumber(ARGV[1]), tonumber(ARGV[2]))
return { 'appended', add('f', ARGV[5]) }
