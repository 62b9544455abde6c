-- Creates a subscription, or changes the options of the one there. The version is the one expected
-- (null: it must not exist); a new one begins behind a position. Answers created | changed | there.
CREATE FUNCTION ff.put(
  _name text, _version bigint, _spec text, _lease bigint, _attempts int, _after bigint,
  _created bigint, _ephemeral boolean, _patterns jsonb, _types text
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  _base bigint;
BEGIN
  IF _version IS NOT NULL THEN
    UPDATE ff.subscription SET version = ff.later_than(version), spec = _spec, attempts = _attempts,
      lease = make_interval(secs => _lease / 1000000.0)
    WHERE name = _name AND version = _version;
    IF NOT FOUND THEN RETURN 'there'; END IF;
    PERFORM ff.wake(_name);
    RETURN 'changed';
  END IF;
  _base := least(_after, ff.head());
  INSERT INTO ff.subscription
    (name, version, spec, interest, lease, attempts, created, ephemeral, base, frontier)
  VALUES (_name, ff.later_than(0), _spec, jsonb_build_array(ff.part(0, _patterns, _types)),
    make_interval(secs => _lease / 1000000.0), _attempts, _created, _ephemeral, _base, _base)
  ON CONFLICT (name) DO NOTHING;
  IF NOT FOUND THEN RETURN 'there'; END IF;
  DELETE FROM ff.deleted WHERE name = _name;
  PERFORM ff.wake(_name);
  RETURN 'created';
END $$;

-- Makes a subscription again that is gone although nobody deleted it, with its pattern sets as they
-- were. Its receipts of before are late. Answers made | there | deleted.
CREATE FUNCTION ff.restore(
  _name text, _spec text, _interest jsonb, _lease bigint, _attempts int, _after bigint, _created bigint
) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM ff.deleted WHERE name = _name) THEN RETURN 'deleted'; END IF;
  INSERT INTO ff.subscription
    (name, version, spec, interest, lease, attempts, created, ephemeral, base, frontier, generation)
  VALUES (_name, ff.later_than(0), _spec, _interest, make_interval(secs => _lease / 1000000.0), _attempts,
    _created, false, _after, _after, extract(epoch FROM clock_timestamp())::int)
  ON CONFLICT (name) DO NOTHING;
  RETURN CASE WHEN FOUND THEN 'made' ELSE 'there' END;
END $$;

-- Other patterns for events behind a position. Answers changed | stale.
CREATE FUNCTION ff.patterns(
  _name text, _version bigint, _after bigint, _spec text, _patterns jsonb, _types text
) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  UPDATE ff.subscription SET version = ff.later_than(version), spec = _spec, interest = (
    SELECT coalesce(jsonb_agg(part ORDER BY ord) FILTER (WHERE (part ->> 'after')::bigint < _after), '[]')
    FROM jsonb_array_elements(interest) WITH ORDINALITY p(part, ord)
  ) || jsonb_build_array(ff.part(_after, _patterns, _types))
  WHERE name = _name AND version = _version;
  IF NOT FOUND THEN RETURN 'stale'; END IF;
  PERFORM ff.wake(_name);
  RETURN 'changed';
END $$;

-- Answers whether there is such a subscription.
CREATE FUNCTION ff.pause(_name text, _paused boolean) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  UPDATE ff.subscription SET paused = _paused WHERE name = _name;
  IF NOT FOUND THEN RETURN false; END IF;
  PERFORM ff.wake(_name);
  RETURN true;
END $$;

-- An ephemeral subscription is still somebody's.
CREATE FUNCTION ff.alive(_name text) RETURNS void LANGUAGE sql AS $$
  UPDATE ff.subscription SET alive = clock_timestamp() WHERE name = _name
$$;

-- Moves a subscription to just behind a position. Answers where it is now.
CREATE FUNCTION ff.seek(_name text, _to bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  _sub int;
  _place bigint;
BEGIN
  SELECT id INTO _sub FROM ff.subscription WHERE name = _name FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN NULL; END IF;
  _place := least(_to, ff.head());
  PERFORM ff.abandon(_sub);
  UPDATE ff.subscription SET base = _place, frontier = _place, claimed = 0, soonest = 'infinity',
    generation = generation + 1, version = ff.later_than(version)
  WHERE id = _sub;
  PERFORM ff.wake(_name);
  RETURN _place;
END $$;

-- Deletes a subscription and its dead letters; if it is told how long (us), then only an ephemeral
-- one that was silent as long. Answers whether it did.
CREATE FUNCTION ff.remove(_name text, _silent bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  _sub int;
BEGIN
  DELETE FROM ff.subscription WHERE name = _name AND (_silent IS NULL
    OR ephemeral AND clock_timestamp() - alive >= make_interval(secs => _silent / 1000000.0))
  RETURNING id INTO _sub;
  IF NOT FOUND THEN RETURN false; END IF;
  PERFORM ff.abandon(_sub);
  DELETE FROM ff.dead_letter WHERE name = _name;
  IF _silent IS NULL THEN
    INSERT INTO ff.deleted (name) VALUES (_name) ON CONFLICT DO NOTHING;
  END IF;
  PERFORM ff.wake(_name);
  RETURN true;
END $$;

-- The position before the first event that was recorded at or after a time. Recorded times grow with
-- positions but for what concurrent transactions differ by, so the search by halves ends early and the
-- last stretch is read.
CREATE FUNCTION ff.before(_time timestamptz) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
  _low bigint := (SELECT min(pos) FROM ff.log);
  _high bigint := (SELECT max(pos) + 1 FROM ff.log);
  _middle bigint;
  _recorded timestamptz;
BEGIN
  WHILE _high - _low > 1000 LOOP
    _middle := _low + (_high - _low) / 2;
    SELECT recorded INTO _recorded FROM ff.log WHERE pos >= _middle ORDER BY pos LIMIT 1;
    IF _recorded < _time THEN _low := _middle; ELSE _high := _middle; END IF;
  END LOOP;
  RETURN coalesce((
    SELECT pos FROM ff.log WHERE pos >= _low - 10000 AND recorded >= _time ORDER BY pos LIMIT 1
  ) - 1, ff.head());
END $$;
