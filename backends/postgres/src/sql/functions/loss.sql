-- Events that are gone although nobody here removed them.

-- Looks whether the oldest or the newest event that was read is there no more. Notes the loss, once for
-- all processes, with as many events as recent ids tell; and forgets those ids, so that nothing of what
-- is gone is taken for a duplicate. Answers what to tell.
CREATE FUNCTION ff.look_for_losses() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  _z ff.horizon;
  _oldest bigint;
  _lost bigint := 0;
  _more bigint;
  _told text;
BEGIN
  IF NOT ff.misses_events() THEN
    SELECT min(pos) INTO _oldest FROM ff.log;
    UPDATE ff.horizon SET oldest = _oldest WHERE oldest IS DISTINCT FROM _oldest AND _oldest IS NOT NULL;
    RETURN NULL;
  END IF;
  -- Not while retention removes something: that is seen before it is noted.
  IF NOT pg_try_advisory_xact_lock(hashtext('ff'), -2) THEN RETURN NULL; END IF;
  IF NOT ff.misses_events() THEN RETURN NULL; END IF;
  SELECT * INTO _z FROM ff.horizon;
  FOR bucket IN 0..2 LOOP
    EXECUTE format('WITH gone AS (DELETE FROM ff.%I i WHERE pos > $1 AND pos <= $2
      AND NOT EXISTS (SELECT FROM ff.log l WHERE l.pos = i.pos) RETURNING pos)
      SELECT count(*) FROM gone', 'ids_' || bucket) INTO _more USING _z.trimmed, _z.h;
    -- Around a change of buckets an id stands in two of them.
    _lost := greatest(_lost, _more);
  END LOOP;
  SELECT min(pos) INTO _oldest FROM ff.log;
  UPDATE ff.horizon SET noted = h, oldest = _oldest;
  _told := format('events were removed by others, %s of them known', _lost);
  INSERT INTO ff.incident (what, loss, lost) VALUES (_told, true, _lost);
  PERFORM ff.mend();
  RETURN _told;
END $$;

-- Where events are known to be gone, takes what the books count and the log has no more for removed. A
-- process may still have had such events in memory, so this is done again before the books are read.
CREATE FUNCTION ff.mend() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  _noted bigint := (SELECT noted FROM ff.horizon);
BEGIN
  IF _noted = 0 THEN RETURN; END IF;
  PERFORM FROM ff.subscription ORDER BY name FOR NO KEY UPDATE;
  INSERT INTO ff.tally (sub, block, trimmed)
  SELECT s.id, (b ->> 0)::bigint, -(b ->> 1)::bigint
  FROM ff.subscription s, ff.balance(s) balance, jsonb_array_elements(balance.breaches) b
  WHERE (b ->> 0)::bigint <= _noted >> 16 AND (b ->> 1)::bigint < 0
  ON CONFLICT (sub, block) DO UPDATE SET trimmed = tally.trimmed + excluded.trimmed;
END $$;

-- Whether the newest event that was read, or the oldest one at the last look, is gone.
CREATE FUNCTION ff.misses_events() RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT z.h > greatest(z.trimmed, z.noted) AND NOT EXISTS (SELECT FROM ff.log WHERE pos = z.h)
    OR coalesce(z.oldest, 0) > z.trimmed AND NOT EXISTS (SELECT FROM ff.log WHERE pos = z.oldest)
  FROM ff.horizon z
$$;

-- Everything was gone and has been made again: positions go on behind those that were seen.
CREATE FUNCTION ff.begin_again(_seen bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM setval('ff.log_pos', _seen + 1000000);
  UPDATE ff.horizon SET h = _seen, trimmed = _seen, noted = _seen;
  INSERT INTO ff.incident (what, loss) VALUES ('the stream was deleted by others with all its events', true);
END $$;

-- How often events were found gone, and how many are known to be.
CREATE FUNCTION ff.losses(OUT times bigint, OUT events bigint) LANGUAGE sql STABLE AS $$
  SELECT count(*), coalesce(sum(lost), 0)::bigint FROM ff.incident WHERE loss
$$;
