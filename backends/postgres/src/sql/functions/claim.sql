-- Moves the frontier and leases what lies between, together with what is due. Fresh events are runs
-- of neighbours, or single ones with their keys where the subscription is ordered.
-- Outcomes: gone | stale | bury (positions) | ok: the epoch (0: nothing), the frontier, the next change
-- in microseconds, how many fresh events were taken, and what comes before them with its attempts.
CREATE FUNCTION ff.claim(
  _name text, _member bigint, _external boolean, _version bigint, _frontier bigint, _reached bigint,
  _max int, _ordered boolean, _firsts bigint[], _counts int[], _keys text[],
  OUT outcome text, OUT granted bigint, OUT place bigint, OUT next bigint, OUT taken int,
  OUT positions bigint[], OUT tries int[]
) LANGUAGE plpgsql AS $$
DECLARE
  _s ff.subscription;
  _now timestamptz;
  _suspect bigint;
  _tried int;
  _hopeless bigint[];
  _runs int8multirange := '{}';
  _room int := _max;
  _kind "char" := 'f';
BEGIN
  SELECT * INTO _s FROM ff.subscription WHERE name = _name FOR NO KEY UPDATE;
  outcome := CASE WHEN NOT FOUND THEN 'gone' WHEN _s.version <> _version THEN 'stale' ELSE 'ok' END;
  IF outcome <> 'ok' THEN RETURN; END IF;
  _now := clock_timestamp();
  granted := 0; place := _s.frontier; next := -1; taken := 0; positions := '{}'; tries := '{}';
  IF _s.soonest <= _now THEN
    _s.soonest := ff.expire(_s.id, _now);
    UPDATE ff.subscription SET soonest = _s.soonest WHERE id = _s.id;
  END IF;
  IF _s.paused OR (NOT _external AND EXISTS (
    SELECT FROM ff.lease WHERE sub = _s.id AND member = _member AND kind = 's'
  )) THEN
    next := ff.next_change(_s, _now);
    PERFORM ff.unsynced();
    RETURN;
  END IF;

  -- Suspects: those out of attempts are buried first, the others come one by one.
  SELECT w.pos, coalesce(story.attempts, 0) INTO _suspect, _tried
  FROM ff.waiting w LEFT JOIN ff.story USING (sub, pos)
  WHERE w.sub = _s.id AND w.due IS NULL ORDER BY w.pos LIMIT 1;
  IF FOUND THEN
    SELECT array_agg(pos) INTO _hopeless FROM (
      SELECT w.pos FROM ff.waiting w JOIN ff.story USING (sub, pos)
      WHERE w.sub = _s.id AND w.due IS NULL AND story.attempts >= _s.attempts ORDER BY w.pos LIMIT 32
    ) AS hopeless;
    IF _hopeless IS NOT NULL THEN
      outcome := 'bury'; positions := _hopeless;
      RETURN;
    END IF;
    -- An embedded member first finishes what it has, so that the suspect runs alone.
    IF NOT _external AND EXISTS (SELECT FROM ff.lease WHERE sub = _s.id AND member = _member) THEN
      next := ff.next_change(_s, _now);
      PERFORM ff.unsynced();
      RETURN;
    END IF;
    DELETE FROM ff.waiting WHERE sub = _s.id AND pos = _suspect;
    INSERT INTO ff.story (sub, pos, attempts) VALUES (_s.id, _suspect, 1)
      ON CONFLICT (sub, pos) DO UPDATE SET attempts = story.attempts + 1;
    granted := ff.grant(_s, _member, 's', _now, int8multirange(int8range(_suspect, _suspect + 1)), _s.frontier, 0);
    positions := ARRAY[_suspect]; tries := ARRAY[_tried + 1];
    RETURN;
  END IF;

  PERFORM ff.unsynced();
  WITH due AS (
    DELETE FROM ff.waiting w USING (
      SELECT sub, pos FROM ff.waiting WHERE sub = _s.id AND due <= _now ORDER BY due, pos LIMIT _max
    ) d WHERE w.sub = d.sub AND w.pos = d.pos RETURNING w.sub, w.pos, w.due
  )
  SELECT coalesce(array_agg(due.pos ORDER BY due.due, due.pos), '{}'),
    coalesce(array_agg(coalesce(story.attempts, 0) + 1 ORDER BY due.due, due.pos), '{}'),
    coalesce(range_agg(int8range(due.pos, due.pos + 1)), '{}')
  INTO positions, tries, _runs FROM due LEFT JOIN ff.story USING (sub, pos);
  IF _runs <> '{}' THEN
    _kind := 'x';
    _room := _max - cardinality(positions);
  END IF;

  IF place = _frontier AND _ordered THEN
    _kind := 'x';
    SELECT e.taken, e.place, positions || e.free, tries || array_fill(1, ARRAY[cardinality(e.free)]),
      _runs + e.runs
    INTO taken, place, positions, tries, _runs FROM ff.enter(_s.id, _firsts, _keys, _room) e;
    place := CASE WHEN taken = cardinality(_firsts) THEN _reached ELSE coalesce(place, _frontier) END;
  ELSIF place = _frontier THEN
    SELECT _runs + coalesce(range_agg(int8range(first, first + n)), '{}'), coalesce(sum(n), 0)::int,
      coalesce(max(first + n - 1), _frontier)
    INTO _runs, taken, place FROM (
      SELECT first, least(count, _room - (sum(count) OVER (ORDER BY first) - count))::int AS n
      FROM unnest(_firsts, _counts) f(first, count)
    ) cut WHERE n > 0;
    IF taken = (SELECT coalesce(sum(count), 0) FROM unnest(_counts) count) THEN place := _reached; END IF;
  END IF;

  IF _runs <> '{}' THEN
    granted := ff.grant(_s, _member, _kind, _now, _runs, place, taken);
  ELSE
    IF place <> _s.frontier THEN
      UPDATE ff.subscription SET frontier = place, claimed = claimed + taken WHERE id = _s.id;
    END IF;
    next := ff.next_change(_s, _now);
  END IF;
END $$;

-- A lease, and the subscription's new place. Answers its epoch.
CREATE FUNCTION ff.grant(
  _s ff.subscription, _member bigint, _kind "char", _now timestamptz, _held int8multirange,
  _frontier bigint, _claimed int
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  _epoch bigint := ff.later_than(_s.epoch);
BEGIN
  PERFORM ff.lay(_s.id, _epoch, _member, _kind, _now + _s.lease, _held);
  UPDATE ff.subscription SET epoch = _epoch, frontier = _frontier, claimed = claimed + _claimed,
    soonest = least(soonest, _now + _s.lease)
  WHERE id = _s.id;
  RETURN _epoch;
END $$;

-- Until a lease ends or something is due, in microseconds; -1: neither.
CREATE FUNCTION ff.next_change(_s ff.subscription, _now timestamptz) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
  RETURN (
    SELECT CASE WHEN at = 'infinity' THEN -1
      ELSE (greatest(extract(epoch FROM greatest(at, _now) - _now), 0) * 1000000)::bigint END
    FROM (SELECT least(_s.soonest, (
      SELECT due FROM ff.waiting WHERE sub = _s.id AND due IS NOT NULL ORDER BY due LIMIT 1
    )) AS at) next
  );
END $$;

-- Fresh events in their order enter the lanes of their keys, until enough may be delivered or too many
-- stand behind others. Answers how many entered, the last of them, and which may be delivered.
CREATE FUNCTION ff.enter(
  _sub int, _positions bigint[], _keys text[], _room int,
  OUT taken int, OUT place bigint, OUT free bigint[], OUT runs int8multirange
) LANGUAGE plpgsql AS $$
BEGIN
  WITH fresh AS (
    SELECT ord, pos, CASE WHEN key <> '' THEN hashtextextended(key, 0) END AS key
    FROM unnest(_positions, _keys) WITH ORDINALITY f(pos, key, ord)
  ), judged AS (
    SELECT *, key IS NOT NULL AND (
      row_number() OVER (PARTITION BY key ORDER BY ord) > 1
      OR EXISTS (SELECT FROM ff.lane l WHERE l.sub = _sub AND l.key = fresh.key)
    ) AS behind
    FROM fresh
  ), summed AS (
    SELECT *, count(*) FILTER (WHERE behind) OVER upto AS behinds,
      count(*) FILTER (WHERE NOT behind) OVER upto AS frees
    FROM judged WINDOW upto AS (ORDER BY ord)
  ), entering AS (
    SELECT * FROM summed
    WHERE frees - CASE WHEN behind THEN 0 ELSE 1 END < _room
      AND behinds - CASE WHEN behind THEN 1 ELSE 0 END < 10000 - (
        SELECT count(*) FROM (SELECT FROM ff.lane WHERE sub = _sub AND NOT head LIMIT 10000) b)
  ), entered AS (
    INSERT INTO ff.lane (sub, pos, key, head)
    SELECT _sub, pos, key, NOT behind FROM entering WHERE key IS NOT NULL
  )
  SELECT count(*)::int, max(pos), coalesce(array_agg(pos ORDER BY ord) FILTER (WHERE NOT behind), '{}'),
    coalesce(range_agg(int8range(pos, pos + 1)) FILTER (WHERE NOT behind), '{}')
  INTO taken, place, free, runs FROM entering;
END $$;
