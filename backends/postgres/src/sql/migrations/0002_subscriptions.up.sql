-- What stands between the log and its subscribers. A subscription is one row, and every function that
-- moves its deliveries locks it first. Above its frontier nothing has been claimed; what is unsettled
-- below is a range of a lease, or a row of its own in `waiting`, or stands behind another event of its
-- key in `lane`. Everything else below is settled, and costs nothing.

CREATE TABLE ff.subscription (
  id         int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name       text COLLATE "C" NOT NULL UNIQUE,
  -- Changes with the spec, the patterns and the place; never repeats.
  version    bigint NOT NULL,
  spec       text NOT NULL,
  -- Pattern sets, each with the position after which it holds (ff.part).
  interest   jsonb NOT NULL,
  lease      interval NOT NULL,
  attempts   int NOT NULL,
  created    bigint NOT NULL,
  ephemeral  boolean NOT NULL,
  -- When an ephemeral subscription last said that it lives.
  alive      timestamptz NOT NULL DEFAULT clock_timestamp(),
  paused     boolean NOT NULL DEFAULT false,
  base       bigint NOT NULL,
  frontier   bigint NOT NULL,
  -- Matching events between base and frontier.
  claimed    bigint NOT NULL DEFAULT 0,
  epoch      bigint NOT NULL DEFAULT 0,
  -- How often it was moved.
  generation int NOT NULL DEFAULT 0,
  -- No lease ends before.
  soonest    timestamptz NOT NULL DEFAULT 'infinity'
) WITH (fillfactor = 25, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Rows are used again and again, and no index holds what changes: the table stays small without being
-- vacuumed. One that is free has epoch 0 and holds nothing.
CREATE TABLE ff.lease (
  sub    int NOT NULL,
  slot   int NOT NULL,
  -- What is extended on its own is a row of its own with the same epoch.
  epoch  bigint NOT NULL,
  member bigint NOT NULL,
  -- f: fresh events that nothing else is known about; x: others too; s: one suspect.
  kind   "char" NOT NULL,
  until  timestamptz NOT NULL,
  -- What is not settled.
  held   int8multirange NOT NULL,
  PRIMARY KEY (sub, slot)
) WITH (fillfactor = 25, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE TABLE ff.waiting (
  sub int NOT NULL,
  pos bigint NOT NULL,
  -- None: its member died, and it comes alone.
  due timestamptz,
  PRIMARY KEY (sub, pos)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
CREATE INDEX waiting_due ON ff.waiting (sub, due, pos);

-- Of deliveries that are more than fresh.
CREATE TABLE ff.story (
  sub      int NOT NULL,
  pos      bigint NOT NULL,
  attempts int NOT NULL DEFAULT 0,
  first    bigint,
  error    text NOT NULL DEFAULT '',
  -- What a redriven dead letter brought along.
  body     bytea,
  PRIMARY KEY (sub, pos)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);

-- Claimed events of ordered subscriptions that have a key. One of each key is on its way, or parked as
-- a dead letter; the others stand behind it.
CREATE TABLE ff.lane (
  sub    int NOT NULL,
  pos    bigint NOT NULL,
  key    bigint NOT NULL,
  head   boolean NOT NULL,
  parked boolean NOT NULL DEFAULT false,
  PRIMARY KEY (sub, pos)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);
CREATE INDEX lane_key ON ff.lane (sub, key, pos);

-- What became of deliveries, by blocks of 65,536 positions; written with the settlements themselves.
CREATE TABLE ff.tally (
  sub          int NOT NULL,
  block        bigint NOT NULL,
  acknowledged bigint NOT NULL DEFAULT 0,
  dropped      bigint NOT NULL DEFAULT 0,
  dead         bigint NOT NULL DEFAULT 0,
  -- Redriven from before a seek.
  extra        bigint NOT NULL DEFAULT 0,
  -- Matching events that retention removed.
  trimmed      bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (sub, block)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE TABLE ff.dead_letter (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- Its subscription; by name, so that it outlives one that is lost and made again.
  name       text COLLATE "C" NOT NULL,
  pos        bigint NOT NULL,
  generation int NOT NULL,
  reason     text NOT NULL,
  error      text NOT NULL,
  attempts   int NOT NULL,
  first      bigint NOT NULL,
  last       bigint NOT NULL,
  body       bytea NOT NULL,
  -- The data before somebody edited them.
  original   bytea
);
CREATE INDEX dead_letter_of ON ff.dead_letter (name, pos);

-- Subscriptions that were meant to go: what is gone but not here was lost, and is made again.
CREATE TABLE ff.deleted (
  name text COLLATE "C" PRIMARY KEY,
  at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
