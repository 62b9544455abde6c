-- Functions first: some take a row of a table.
DROP FUNCTION
  ff.head, ff.wake, ff.later_than, ff.unsynced, ff.positions, ff.expire,
  ff.leave, ff.is_unsettled, ff.refusal, ff.answer, ff.count, ff.abandon,
  ff.claim, ff.grant, ff.next_change, ff.enter, ff.settle, ff.take,
  ff.put_back, ff.give_up, ff.clear, ff.extend, ff.release, ff.bury,
  ff.part, ff.parts, ff.matching, ff.needed_by, ff.balance, ff.needed, ff.forget,
  ff.put, ff.patterns, ff.pause, ff.alive, ff.seek, ff.remove,
  ff.before, ff.redrive, ff.lock_subscriptions_of, ff.revive, ff.discard, ff.replace_body, ff.deliveries;
DROP TABLE ff.dead_letter, ff.tally, ff.lane, ff.story, ff.waiting, ff.lease, ff.subscription;
