-- Keeping house: partitions ahead, buckets of ids in turn, and the removal of what nobody needs. All of
-- it may be called by several processes at once; what cannot have its lock soon is left for next time.
-- It runs as its owner, because partitions are attached and emptied by their owner only.

-- Does nothing of the kind for longer than this behind others' locks.
CREATE FUNCTION ff.patience() RETURNS void LANGUAGE sql AS $$
  SELECT set_config('lock_timeout', '200ms', true)
$$;

-- Makes partitions until one is empty ahead. A partition that filled up soon is followed by a larger
-- one. Answers how many were made.
CREATE FUNCTION ff.extend_log() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  top ff.partition;
  drawn bigint;
  size bigint;
  low bigint;
  made int := 0;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtext('ff'), -1) THEN
    RETURN 0;
  END IF;
  PERFORM ff.patience();
  SELECT last_value INTO drawn FROM ff.log_pos;
  LOOP
    SELECT * INTO top FROM ff.partition ORDER BY high DESC LIMIT 1;
    size := top.high - top.low;
    EXIT WHEN top.high - drawn > size;
    IF clock_timestamp() - top.made < interval '1 hour' THEN
      size := least(size * 4, 1 << 30);
    END IF;
    low := top.high;
    IF drawn >= low THEN
      -- What came into the default partition stays there, and what comes while this one is attached.
      low := drawn + size / 4;
    END IF;
    EXECUTE format('CREATE TABLE ff.%I (LIKE ff.log INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)',
      'log_' || low);
    EXECUTE format('ALTER TABLE ff.log ATTACH PARTITION ff.%I FOR VALUES FROM (%s) TO (%s)',
      'log_' || low, low, low + size);
    -- The first blocks of an empty table count as summarized, and every insert rewrites their summaries:
    -- four times its cost. Without any they get theirs as the others do, when the table is vacuumed.
    PERFORM brin_desummarize_range(format('ff.%I', 'log_' || low || '_recorded_idx')::regclass, 0),
      brin_desummarize_range(format('ff.%I', 'log_' || low || '_id_idx')::regclass, 0);
    -- ANALYZE holds back the removal of dead rows everywhere while it reads 300 rows for each of these
    -- numbers, 30,000 by default: seconds in which the small tables grow.
    EXECUTE format('ALTER TABLE ff.%I
      ALTER pos SET STATISTICS 1, ALTER recorded SET STATISTICS 1, ALTER source SET STATISTICS 1,
      ALTER type SET STATISTICS 1, ALTER id SET STATISTICS 1, ALTER key SET STATISTICS 1,
      ALTER attrs SET STATISTICS 1, ALTER data SET STATISTICS 1', 'log_' || low);
    INSERT INTO ff.partition (name, low, high) VALUES ('log_' || low, low, low + size);
    made := made + 1;
  END LOOP;
  RETURN made;
END $$;

-- Counts partitions that are complete.
CREATE FUNCTION ff.seal() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  complete ff.partition;
  held record;
BEGIN
  FOR complete IN SELECT p.* FROM ff.partition AS p, ff.horizon AS z WHERE p.events IS NULL AND p.high <= z.h LOOP
    SELECT count(*) AS events, coalesce(sum(ff.weight(l)), 0) AS bytes INTO held
      FROM ff.log AS l WHERE l.pos >= complete.low AND l.pos < complete.high;
    UPDATE ff.partition SET events = held.events, bytes = held.bytes WHERE name = complete.name AND events IS NULL;
  END LOOP;
END $$;

-- About the bytes of a row.
CREATE FUNCTION ff.weight(l ff.log) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT (64 + octet_length(l.id) + octet_length(l.attrs) + octet_length(l.data))::bigint
$$;

-- What the log holds.
CREATE FUNCTION ff.volume(OUT events bigint, OUT bytes bigint, OUT first bigint, OUT last bigint)
LANGUAGE plpgsql STABLE AS $$
DECLARE
  counted bigint := (SELECT coalesce(max(p.high), 0) FROM ff.partition AS p WHERE p.events IS NOT NULL);
BEGIN
  SELECT coalesce(sum(p.events), 0), coalesce(sum(p.bytes), 0) INTO events, bytes
    FROM ff.partition AS p WHERE p.events IS NOT NULL;
  SELECT events + count(*), bytes + coalesce(sum(ff.weight(l)), 0) INTO events, bytes
    FROM ff.log AS l WHERE l.pos >= counted;
  SELECT min(l.pos), max(l.pos) INTO first, last FROM ff.log AS l;
  IF counted > 0 THEN
    -- What the default partition caught before.
    SELECT events + count(*), bytes + coalesce(sum(64 + octet_length(l.id) + octet_length(l.attrs) + octet_length(l.data)), 0)
      INTO events, bytes FROM ff.log_rest AS l WHERE l.pos < counted
      AND NOT EXISTS (SELECT FROM ff.partition AS p WHERE l.pos >= p.low AND l.pos < p.high);
  END IF;
END $$;

-- Puts the next bucket of ids in the place of the current one when that is old. Three steps, each a
-- call: the rotation; noting who may still write by the view before it; emptying the oldest bucket when
-- those have ended. Answers whether another step is due soon.
CREATE FUNCTION ff.rotate(_window interval) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  b ff.bucket;
  readers text[];
BEGIN
  SELECT * INTO b FROM ff.bucket FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN false;
  END IF;
  PERFORM ff.patience();
  -- Whoever read the bucket's row holds this lock until its transaction ends; we do too.
  SELECT coalesce(array_agg(virtualtransaction), '{}') INTO readers FROM pg_locks
    WHERE relation = 'ff.bucket'::regclass AND mode = 'AccessShareLock'
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND pid IS DISTINCT FROM pg_backend_pid();
  IF b.overlap = '{*}' THEN
    UPDATE ff.bucket SET overlap = readers;
    RETURN true;
  ELSIF b.overlap IS NOT NULL THEN
    IF b.overlap && readers THEN
      RETURN true;
    END IF;
    UPDATE ff.bucket SET overlap = NULL;
    RETURN true;
  ELSIF NOT b.clean THEN
    EXECUTE format('TRUNCATE ff.%I', 'ids_' || (b.current + 1) % 3);
    UPDATE ff.bucket SET clean = true;
    RETURN false;
  ELSIF clock_timestamp() - b.since >= _window THEN
    UPDATE ff.bucket SET current = (b.current + 1) % 3, since = clock_timestamp(), overlap = '{*}', clean = false;
    RETURN true;
  END IF;
  RETURN false;
END $$;

-- Removes events up to and including a position, as far as nobody needs them: a whole partition, or so
-- many of the oldest. Answers how many bytes went, and whether there may be more to remove.
CREATE FUNCTION ff.trim(_upto bigint, _rows int, OUT removed bigint, OUT more boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  cut bigint;
  part ff.partition;
BEGIN
  removed := 0;
  more := false;
  IF NOT pg_try_advisory_xact_lock(hashtext('ff'), -2) THEN
    RETURN;
  END IF;
  PERFORM ff.patience();
  SELECT least(_upto, z.h, coalesce(ff.needed() - 1, z.h)) INTO cut FROM ff.horizon AS z;
  SELECT * INTO part FROM ff.partition AS p WHERE p.events > 0 AND p.high - 1 <= cut ORDER BY p.low LIMIT 1;
  IF FOUND AND NOT EXISTS (SELECT FROM ff.log AS l WHERE l.pos < part.low) THEN
    IF ff.forget(part.high - 1) THEN
      -- Emptying it only disturbs its own readers; dropping it needs a moment without publishers.
      EXECUTE format('TRUNCATE ff.%I', part.name);
      UPDATE ff.partition SET events = 0, bytes = 0 WHERE name = part.name;
      removed := part.bytes;
      cut := part.high - 1;
    ELSE
      RETURN;
    END IF;
  ELSE
    SELECT max(oldest.pos) INTO cut FROM
      (SELECT l.pos FROM ff.log AS l WHERE l.pos <= cut ORDER BY l.pos LIMIT _rows) AS oldest;
    IF cut IS NULL OR NOT ff.forget(cut) THEN
      RETURN;
    END IF;
    WITH gone AS (DELETE FROM ff.log AS l WHERE l.pos <= cut RETURNING l.pos, ff.weight(l) AS weight),
    per AS (
      SELECT p.name, count(*) AS events, sum(g.weight) AS bytes
      FROM gone AS g JOIN ff.partition AS p ON g.pos >= p.low AND g.pos < p.high
      WHERE p.events IS NOT NULL GROUP BY p.name),
    less AS (
      UPDATE ff.partition AS p SET events = p.events - per.events, bytes = p.bytes - per.bytes
      FROM per WHERE per.name = p.name)
    SELECT coalesce(sum(g.weight), 0) INTO removed FROM gone AS g;
  END IF;
  UPDATE ff.horizon SET trimmed = greatest(trimmed, cut);
  more := true;
END $$;

-- Drops partitions that were emptied, if no publisher is in the way.
CREATE FUNCTION ff.drop_emptied() RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  part ff.partition;
  dropped int := 0;
BEGIN
  PERFORM ff.patience();
  FOR part IN SELECT * FROM ff.partition WHERE events = 0 ORDER BY low LOOP
    EXECUTE format('DROP TABLE ff.%I', part.name);
    DELETE FROM ff.partition WHERE name = part.name;
    dropped := dropped + 1;
  END LOOP;
  RETURN dropped;
END $$;
