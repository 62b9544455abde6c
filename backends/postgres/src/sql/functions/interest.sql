-- Which events are a subscription's, for counting them where they are.

-- A pattern set from a position on. `types` is a regular expression for `.` and the event type.
CREATE FUNCTION ff.part(_after bigint, _patterns jsonb, _types text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
  SELECT jsonb_build_object('after', _after, 'patterns', _patterns, 'types', _types)
$$;

CREATE FUNCTION ff.parts(_interest jsonb) RETURNS TABLE (after bigint, upto bigint, types text)
LANGUAGE sql IMMUTABLE AS $$
  SELECT (part ->> 'after')::bigint,
    coalesce(lead((part ->> 'after')::bigint) OVER (ORDER BY ord), 9223372036854775807), part ->> 'types'
  FROM jsonb_array_elements(_interest) WITH ORDINALITY p(part, ord)
$$;

-- Matching events after one position and up to another (null: to the end), by block.
CREATE FUNCTION ff.matching(_interest jsonb, _after bigint, _upto bigint)
RETURNS TABLE (block bigint, events bigint) LANGUAGE plpgsql STABLE AS $$
DECLARE
  _part record;
BEGIN
  FOR _part IN SELECT * FROM ff.parts(_interest) p WHERE p.upto > _after AND (_upto IS NULL OR p.after < _upto) LOOP
    RETURN QUERY SELECT l.pos >> 16, count(*) FROM ff.log l
    WHERE l.pos > greatest(_after, _part.after) AND l.pos <= least(_upto, _part.upto)
      AND l.type IN (SELECT number FROM ff.type WHERE '.' || name ~ _part.types)
    GROUP BY 1;
  END LOOP;
END $$;

-- The first position that a subscription still needs.
CREATE FUNCTION ff.needed_by(_s ff.subscription) RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT least(_s.frontier + 1,
    (SELECT min(pos) FROM ff.waiting WHERE sub = _s.id),
    (SELECT min(pos) FROM ff.lane WHERE sub = _s.id AND NOT head),
    (SELECT min(lower(held)) FROM ff.lease WHERE sub = _s.id))
$$;

-- The first position that any subscription still needs; none: nothing.
CREATE FUNCTION ff.needed() RETURNS bigint LANGUAGE sql STABLE AS $$
  SELECT min(ff.needed_by(s)) FROM ff.subscription s
$$;

-- Called by retention in the transaction that removes every event up to a position, before it does:
-- accounts for what goes. False where something is needed there after all.
CREATE FUNCTION ff.forget(_upto bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  _subs int[];
  _versions bigint[];
  _blocks jsonb;
BEGIN
  -- Counting takes a while, so it comes before the locks. What changes the answer meanwhile changes a
  -- version.
  SELECT array_agg(id), array_agg(version),
    jsonb_agg((SELECT coalesce(jsonb_object_agg(block, n), '{}') FROM (
      SELECT block, sum(events) AS n FROM ff.matching(interest, base, _upto) GROUP BY block
    ) blocks))
  INTO _subs, _versions, _blocks FROM (SELECT * FROM ff.subscription ORDER BY name) s;
  PERFORM FROM ff.subscription ORDER BY name FOR NO KEY UPDATE;
  IF ff.needed() <= _upto OR EXISTS (
    SELECT FROM ff.subscription WHERE (id, version) NOT IN (SELECT * FROM unnest(_subs, _versions))
  ) THEN
    RETURN false;
  END IF;
  INSERT INTO ff.tally (sub, block, trimmed)
  SELECT sub, key::bigint, value::bigint
  FROM unnest(_subs) WITH ORDINALITY s(sub, ord), jsonb_each_text(_blocks -> (s.ord - 1)::int)
  WHERE EXISTS (SELECT FROM ff.subscription WHERE id = sub)
  ON CONFLICT (sub, block) DO UPDATE SET trimmed = tally.trimmed + excluded.trimmed;
  RETURN true;
END $$;

-- Matching events below the frontier, and the blocks where the log and the counters differ, by how much.
CREATE FUNCTION ff.balance(_s ff.subscription, OUT below bigint, OUT breaches jsonb)
LANGUAGE plpgsql STABLE AS $$
BEGIN
  SELECT coalesce(sum(logged), 0),
    coalesce(jsonb_agg(jsonb_build_array(b.block, logged - accounted)) FILTER (WHERE logged <> accounted), '[]')
  INTO below, breaches FROM (
    SELECT block, sum(n)::bigint AS logged, sum(a)::bigint AS accounted FROM (
      SELECT block, events AS n, 0 AS a FROM ff.matching(_s.interest, _s.base, _s.frontier)
      UNION ALL
      SELECT block, 0, acknowledged + dropped + dead - extra - trimmed FROM ff.tally WHERE sub = _s.id
      UNION ALL
      SELECT pos >> 16, 0, 1 FROM (
        SELECT pos FROM ff.waiting WHERE sub = _s.id
        UNION ALL SELECT pos FROM ff.lane WHERE sub = _s.id AND NOT head
        UNION ALL SELECT ff.positions(held) FROM ff.lease WHERE sub = _s.id
      ) open
    ) account GROUP BY block
  ) b;
END $$;
