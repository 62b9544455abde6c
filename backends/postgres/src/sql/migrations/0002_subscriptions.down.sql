DROP TABLE ff.deleted, ff.dead_letter, ff.tally, ff.lane, ff.story, ff.waiting, ff.lease, ff.subscription;
