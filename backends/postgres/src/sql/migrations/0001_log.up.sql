-- The log, what is known beside it, and the horizon up to which it may be read.

-- A name may have several numbers: transactions that first publish it at the same time do not wait for
-- each other.
CREATE TABLE ff.source (
  number int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL
);
CREATE INDEX ON ff.source (name);
CREATE TABLE ff.type (
  number int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL
);
CREATE INDEX ON ff.type (name);

-- `id` is a UUID's 16 bytes, or zero bytes and the text (ff.id_bytes). `attrs` is what
-- fanfare_core::record writes. The sequence hands positions out one by one: nextval's lock on it is
-- how the horizon knows who may still commit.
CREATE TABLE ff.log (
  pos bigint GENERATED ALWAYS AS IDENTITY
    (SEQUENCE NAME ff.log_pos CACHE 1 INCREMENT BY 1 NO CYCLE) PRIMARY KEY,
  recorded timestamptz NOT NULL DEFAULT clock_timestamp(),
  source int NOT NULL,
  type int NOT NULL,
  id bytea NOT NULL,
  key text,
  attrs bytea NOT NULL,
  data bytea NOT NULL
) PARTITION BY RANGE (pos);
CREATE INDEX ON ff.log USING brin (recorded);
-- Finds an event by its id, in a thousandth of the room that a tree of all of them would take.
CREATE INDEX ON ff.log USING brin (id bytea_bloom_ops);
-- The net below partitions that were not made in time.
CREATE TABLE ff.log_rest PARTITION OF ff.log DEFAULT;

-- The partitions, with their content once nothing more can come into them.
CREATE TABLE ff.partition (
  name text PRIMARY KEY,
  low bigint NOT NULL,
  high bigint NOT NULL,
  made timestamptz NOT NULL DEFAULT clock_timestamp(),
  events bigint,
  bytes bigint
);
CREATE TABLE ff.log_1 PARTITION OF ff.log FOR VALUES FROM (1) TO (1048577);
INSERT INTO ff.partition (name, low, high) VALUES ('log_1', 1, 1048577);
-- See ff.extend_log.
ALTER TABLE ff.log_1
  ALTER pos SET STATISTICS 1, ALTER recorded SET STATISTICS 1, ALTER source SET STATISTICS 1,
  ALTER type SET STATISTICS 1, ALTER id SET STATISTICS 1, ALTER key SET STATISTICS 1,
  ALTER attrs SET STATISTICS 1, ALTER data SET STATISTICS 1;
SELECT brin_desummarize_range('ff.log_1_recorded_idx', 0), brin_desummarize_range('ff.log_1_id_idx', 0);

-- Ids of published events, each with its source as a hash, in three buckets of time: current, previous,
-- and one to be emptied.
CREATE TABLE ff.ids_0 (source bigint, id bytea, pos bigint NOT NULL, PRIMARY KEY (source, id));
CREATE TABLE ff.ids_1 (source bigint, id bytea, pos bigint NOT NULL, PRIMARY KEY (source, id));
CREATE TABLE ff.ids_2 (source bigint, id bytea, pos bigint NOT NULL, PRIMARY KEY (source, id));
-- Looking at few rows is enough here, see ff.extend_log.
ALTER TABLE ff.ids_0 ALTER source SET STATISTICS 1, ALTER id SET STATISTICS 1, ALTER pos SET STATISTICS 1;
ALTER TABLE ff.ids_1 ALTER source SET STATISTICS 1, ALTER id SET STATISTICS 1, ALTER pos SET STATISTICS 1;
ALTER TABLE ff.ids_2 ALTER source SET STATISTICS 1, ALTER id SET STATISTICS 1, ALTER pos SET STATISTICS 1;
-- `overlap`: transactions that may still write by the view before the last rotation; `{*}`: not
-- looked at yet. While there are any, a new id goes into the previous bucket too.
CREATE TABLE ff.bucket (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  current int NOT NULL DEFAULT 0,
  since timestamptz NOT NULL DEFAULT clock_timestamp(),
  overlap text[],
  clean boolean NOT NULL DEFAULT true
);
INSERT INTO ff.bucket DEFAULT VALUES;

-- Every event at or below `h` is committed or never comes. One process at a time moves it: the
-- leader of this term, until its lease ends.
CREATE TABLE ff.horizon (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  h bigint NOT NULL DEFAULT 0,
  trimmed bigint NOT NULL DEFAULT 0,
  -- Losses up to here were noted; and the oldest event at the last look.
  noted bigint NOT NULL DEFAULT 0,
  oldest bigint,
  epoch text NOT NULL DEFAULT '',
  leader uuid,
  term bigint NOT NULL DEFAULT 0,
  until timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 10, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);
INSERT INTO ff.horizon DEFAULT VALUES;

-- What went wrong with the log itself and was mended.
CREATE TABLE ff.incident (
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  what text NOT NULL,
  -- Events that others removed, as many as are known.
  loss boolean NOT NULL DEFAULT false,
  lost bigint
);

-- Shared values.
CREATE SEQUENCE ff.state_version;
CREATE TABLE ff.state (
  key text PRIMARY KEY,
  value bytea NOT NULL,
  version bigint NOT NULL
) WITH (fillfactor = 50);
