-- Removes everything that a subscription holds in flight; for seek and delete.
local function forget_all()
  for _, epoch in ipairs(redis.call('HKEYS', S.leases)) do
    redis.call('DEL', S.prefix .. 'b:' .. epoch, S.prefix .. 'x:' .. epoch)
  end
  redis.call('DEL', S.leases, S.left, S.ends, S.due, S.suspects, S.story, S.lane, S.blocked, S.key_of,
    S.parked, S.count, S.held, S.body, S.done)
end
