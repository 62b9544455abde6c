-- After a loss: what was counted for events that are gone is taken for removed, so that the books
-- balance again. ARGV: the id up to which they were mended, then triples of subscription, version,
-- and JSON pairs of block and events. Answers how many subscriptions were mended.
local mended = 0
for i = 2, #ARGV, 3 do
  S = keys_of(ARGV[i])
  if redis.call('HGET', S.meta, 'ver') == ARGV[i + 1] then
    for _, pair in ipairs(cjson.decode(ARGV[i + 2])) do redis.call('HINCRBY', S.count, pair[1] .. 'v', pair[2]) end
    mended = mended + 1
  end
end
if redis.call('HGET', NUMBERS, 'mend') == ARGV[1] then redis.call('HDEL', NUMBERS, 'mend') end
return mended
