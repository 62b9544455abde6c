-- After a loss: what was counted for events that are gone is taken for removed, so that the books
-- balance again. ARGV: the id up to which they were mended, then triples of subscription, version,
-- and JSON pairs of block and events. Answers 0 where others mended them first, or one of these was
-- moved meanwhile: then all are compared again.
if redis.call('HGET', NUMBERS, 'mend') ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 3 do
  local version = redis.call('HGET', keys_of(ARGV[i]).meta, 'ver')
  if version and version ~= ARGV[i + 1] then return 0 end
end
for i = 2, #ARGV, 3 do
  S = keys_of(ARGV[i])
  if redis.call('EXISTS', S.meta) == 1 then
    for _, pair in ipairs(cjson.decode(ARGV[i + 2])) do redis.call('HINCRBY', S.count, pair[1] .. 'v', pair[2]) end
  end
end
redis.call('HDEL', NUMBERS, 'mend')
return 1
