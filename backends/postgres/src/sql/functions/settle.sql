-- Settles runs of deliveries, each with its epoch, how (a|d|v|r|x), first position and count, and for
-- r: delay (us), error; for x: reason, error, body. Answers the letters of each; null: no subscription.
CREATE FUNCTION ff.settle(
  _name text, _at bigint, _park boolean, _epochs bigint[], _hows text[], _firsts bigint[], _counts int[],
  _delays bigint[], _reasons text[], _errors text[], _bodies bytea[]
) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
  _s ff.subscription;
  _ords int[];
  _how text[];
  _kinds "char"[];
  _got int8multirange[];
  _ended "char"[];
  _answer text[];
  _woken boolean;
BEGIN
  SELECT * INTO _s FROM ff.subscription WHERE name = _name FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN NULL; END IF;
  SELECT t.ords, t.hows, t.kinds, t.got, t.ended INTO _ords, _how, _kinds, _got, _ended
  FROM ff.take(_s.id, _epochs, _hows, _firsts, _counts) t;
  _answer := ff.answer(_s, _firsts, _counts, _ords, _got);
  IF _ords IS NULL THEN RETURN _answer; END IF;
  PERFORM ff.count(_s.id, _how, _got);
  _woken := _how && ARRAY['r', 'v'] OR 's' = ANY (_ended);
  IF EXISTS (SELECT FROM unnest(_how, _kinds) t(how, kind) WHERE kind <> 'f' OR how NOT IN ('a', 'd')) THEN
    _woken := ff.put_back(_s.id, _at, _ords, _how, _kinds, _got, _delays, _errors) OR _woken;
    IF 'x' = ANY (_how) THEN
      PERFORM ff.give_up(_s, _at, _ords, _how, _kinds, _got, _reasons, _errors, _bodies);
    END IF;
    _woken := ff.clear(_s.id, _park, _how, _kinds, _got) OR _woken;
  END IF;
  -- A member that holds nothing any more may now take a suspect.
  IF NOT _woken AND _ended IS NOT NULL THEN
    _woken := EXISTS (SELECT FROM ff.waiting WHERE sub = _s.id AND due IS NULL);
  END IF;
  IF _woken THEN PERFORM ff.wake(_name); END IF;
  RETURN _answer;
END $$;

-- Takes out of their leases what runs name. Answers which run got what, from what kind of lease, and
-- the kinds of the leases that ended with it.
CREATE FUNCTION ff.take(
  _sub int, _epochs bigint[], _hows text[], _firsts bigint[], _counts int[],
  OUT ords int[], OUT hows text[], OUT kinds "char"[], OUT got int8multirange[], OUT ended "char"[]
) LANGUAGE plpgsql AS $$
DECLARE
  _empty int[];
BEGIN
  WITH run AS (
    SELECT epoch, how, int8range(first, first + count) AS span, ord
    FROM unnest(_epochs, _hows, _firsts, _counts) WITH ORDINALITY r(epoch, how, first, count, ord)
  ), hit AS MATERIALIZED (
    SELECT run.ord, run.how, l.slot, l.kind, l.held, run.span
    FROM run JOIN ff.lease l ON l.sub = _sub AND l.epoch = run.epoch AND l.held && run.span
  ), touched AS (
    SELECT slot, kind, held - range_agg(span) AS rest FROM hit GROUP BY slot, kind, held
  ), smaller AS (
    UPDATE ff.lease l SET held = t.rest FROM touched t
    WHERE l.sub = _sub AND l.slot = t.slot AND t.rest <> '{}'
  )
  SELECT array_agg(ord::int), array_agg(how), array_agg(kind), array_agg(held * int8multirange(span)),
    (SELECT array_agg(kind) FROM touched WHERE rest = '{}'), (SELECT array_agg(slot) FROM touched WHERE rest = '{}')
  INTO ords, hows, kinds, got, ended, _empty FROM hit;
  PERFORM ff.free(_sub, _empty);
END $$;

-- What was failed or released waits again. Answers whether anything does.
CREATE FUNCTION ff.put_back(
  _sub int, _at bigint, _ords int[], _hows text[], _kinds "char"[], _got int8multirange[],
  _delays bigint[], _errors text[]
) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  -- Not started: as suspect as it was, and uncharged.
  UPDATE ff.story SET attempts = attempts - 1
  FROM unnest(_hows, _kinds, _got) t(how, kind, held), ff.positions(t.held) p
  WHERE t.how = 'v' AND t.kind = 's' AND story.sub = _sub AND story.pos = p;
  INSERT INTO ff.story (sub, pos, attempts, first, error)
  SELECT _sub, p, 1, _at, coalesce(_errors[t.ord], '')
  FROM unnest(_ords, _hows, _kinds, _got) t(ord, how, kind, held), ff.positions(t.held) p WHERE t.how = 'r'
  ON CONFLICT (sub, pos) DO UPDATE SET error = excluded.error,
    first = coalesce(story.first, excluded.first),
    -- The attempt of a suspect was counted when it was given out.
    attempts = story.attempts + CASE WHEN EXISTS (
      SELECT FROM unnest(_kinds, _got) t(kind, held) WHERE t.kind = 's' AND t.held @> story.pos
    ) THEN 0 ELSE 1 END;
  INSERT INTO ff.waiting (sub, pos, due)
  SELECT _sub, p, CASE
    WHEN t.how = 'r' THEN clock_timestamp() + make_interval(secs => _delays[t.ord] / 1000000.0)
    WHEN t.kind = 's' THEN NULL
    ELSE '-infinity' END
  FROM unnest(_ords, _hows, _kinds, _got) t(ord, how, kind, held), ff.positions(t.held) p
  WHERE t.how IN ('r', 'v');
  RETURN FOUND;
END $$;

-- Makes dead letters.
CREATE FUNCTION ff.give_up(
  _s ff.subscription, _at bigint, _ords int[], _hows text[], _kinds "char"[], _got int8multirange[],
  _reasons text[], _errors text[], _bodies bytea[]
) RETURNS void LANGUAGE sql AS $$
  INSERT INTO ff.dead_letter (name, pos, generation, reason, error, attempts, first, last, body)
  SELECT _s.name, p, _s.generation, _reasons[t.ord], _errors[t.ord],
    coalesce(story.attempts, 0) + CASE WHEN t.kind = 's' THEN 0 ELSE 1 END,
    coalesce(story.first, _at), _at, _bodies[t.ord]
  FROM unnest(_ords, _hows, _kinds, _got) t(ord, how, kind, held)
  CROSS JOIN ff.positions(t.held) p
  LEFT JOIN ff.story ON story.sub = _s.id AND story.pos = p
  WHERE t.how = 'x' ORDER BY p
$$;

-- Forgets what is settled for good; dead letters keep their lanes where they park. Answers whether
-- other events may come now.
CREATE FUNCTION ff.clear(_sub int, _park boolean, _hows text[], _kinds "char"[], _got int8multirange[])
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  _settled bigint[];
BEGIN
  SELECT array_agg(p) INTO _settled FROM unnest(_hows, _kinds, _got) t(how, kind, held), ff.positions(t.held) p
  WHERE t.how IN ('a', 'd', 'x') AND t.kind <> 'f' OR t.how = 'x';
  IF _settled IS NULL THEN RETURN false; END IF;
  DELETE FROM ff.story WHERE sub = _sub AND pos = ANY (_settled);
  IF _park THEN
    WITH dead AS (
      SELECT p FROM unnest(_hows, _got) t(how, held), ff.positions(t.held) p WHERE t.how = 'x'
    ), parked AS (
      UPDATE ff.lane SET parked = true FROM dead WHERE lane.sub = _sub AND lane.pos = dead.p RETURNING lane.pos
    )
    SELECT array_agg(p) INTO _settled FROM unnest(_settled) p WHERE p NOT IN (SELECT pos FROM parked);
  END IF;
  RETURN ff.leave(_sub, coalesce(_settled, '{}')) > 0;
END $$;

-- Extends runs of deliveries. Answers like settle.
CREATE FUNCTION ff.extend(
  _name text, _lease bigint, _epochs bigint[], _firsts bigint[], _counts int[]
) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
  _s ff.subscription;
  _until timestamptz;
  _l record;
  _ords int[];
  _got int8multirange[];
BEGIN
  SELECT * INTO _s FROM ff.subscription WHERE name = _name FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN NULL; END IF;
  PERFORM ff.unsynced();
  _until := clock_timestamp() + make_interval(secs => _lease / 1000000.0);
  FOR _l IN
    SELECT l.slot, l.epoch, l.member, l.kind, l.held, l.held * range_agg(run.span) AS own,
      array_agg(run.ord::int) AS ords, array_agg(l.held * int8multirange(run.span)) AS got
    FROM (
      SELECT epoch, int8range(first, first + count) AS span, ord
      FROM unnest(_epochs, _firsts, _counts) WITH ORDINALITY r(epoch, first, count, ord)
    ) run JOIN ff.lease l ON l.sub = _s.id AND l.epoch = run.epoch AND l.held && run.span
    GROUP BY l.slot, l.epoch, l.member, l.kind, l.held
  LOOP
    IF _l.own = _l.held THEN
      UPDATE ff.lease SET until = _until WHERE sub = _s.id AND slot = _l.slot;
    ELSE
      UPDATE ff.lease SET held = held - _l.own WHERE sub = _s.id AND slot = _l.slot;
      PERFORM ff.lay(_s.id, _l.epoch, _l.member, _l.kind, _until, _l.own);
    END IF;
    _ords := _ords || _l.ords;
    _got := _got || _l.got;
  END LOOP;
  IF _ords IS NOT NULL AND _until < _s.soonest THEN
    UPDATE ff.subscription SET soonest = _until WHERE id = _s.id;
  END IF;
  RETURN ff.answer(_s, _firsts, _counts, _ords, _got);
END $$;

-- Gives back everything that a member holds, as not started. Answers how much.
CREATE FUNCTION ff.release(_name text, _member bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  _s ff.subscription;
  _released bigint;
BEGIN
  SELECT * INTO _s FROM ff.subscription WHERE name = _name FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN 0; END IF;
  UPDATE ff.story SET attempts = attempts - 1 FROM ff.lease l, ff.positions(l.held) p
  WHERE l.sub = _s.id AND l.member = _member AND l.kind = 's' AND story.sub = _s.id AND story.pos = p;
  INSERT INTO ff.waiting (sub, pos, due)
  SELECT _s.id, p, CASE WHEN kind = 's' THEN NULL ELSE '-infinity'::timestamptz END
  FROM ff.lease, ff.positions(held) p WHERE sub = _s.id AND member = _member;
  GET DIAGNOSTICS _released = ROW_COUNT;
  PERFORM ff.free(_s.id, ARRAY(SELECT slot FROM ff.lease WHERE sub = _s.id AND member = _member));
  IF _released > 0 THEN PERFORM ff.wake(_name); END IF;
  RETURN _released;
END $$;

-- Gives up suspects that are out of attempts, as dead letters or not.
CREATE FUNCTION ff.bury(
  _name text, _at bigint, _keep boolean, _park boolean, _positions bigint[], _bodies bytea[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  _s ff.subscription;
  _dead bigint[];
  _how text := CASE WHEN _keep THEN 'x' ELSE 'd' END;
  _got int8multirange;
BEGIN
  SELECT * INTO _s FROM ff.subscription WHERE name = _name FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN; END IF;
  WITH dead AS (
    DELETE FROM ff.waiting w USING ff.story
    WHERE w.sub = _s.id AND w.pos = ANY (_positions) AND w.due IS NULL
      AND story.sub = w.sub AND story.pos = w.pos AND story.attempts >= _s.attempts RETURNING w.pos
  )
  SELECT array_agg(pos ORDER BY pos), range_agg(int8range(pos, pos + 1)) INTO _dead, _got FROM dead;
  IF _dead IS NULL THEN RETURN; END IF;
  PERFORM ff.count(_s.id, ARRAY[_how], ARRAY[_got]);
  IF _keep THEN
    INSERT INTO ff.dead_letter (name, pos, generation, reason, error, attempts, first, last, body)
    SELECT _s.name, p.pos, _s.generation, 'max_attempts',
      'its process died while handling it' || CASE WHEN story.error = '' THEN '' ELSE '; before that: ' || story.error END,
      story.attempts, coalesce(story.first, _at), _at, p.body
    FROM unnest(_positions, _bodies) p(pos, body) JOIN ff.story ON story.sub = _s.id AND story.pos = p.pos
    WHERE p.pos = ANY (_dead) ORDER BY p.pos;
  END IF;
  IF ff.clear(_s.id, _keep AND _park, ARRAY[_how], ARRAY['s'::"char"], ARRAY[_got]) THEN
    PERFORM ff.wake(_name);
  END IF;
END $$;
