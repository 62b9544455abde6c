-- Returns dead letters to their subscriptions, with their keys (empty: none) and bodies. Answers how
-- many were there.
CREATE FUNCTION ff.redrive(_ids bigint[], _keys text[], _bodies bytea[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  _x ff.dead_letter;
  _done bigint := 0;
  _touched text[] := '{}';
BEGIN
  PERFORM ff.lock_subscriptions_of(_ids);
  FOR i IN 1 .. cardinality(_ids) LOOP
    DELETE FROM ff.dead_letter WHERE id = _ids[i] RETURNING * INTO _x;
    CONTINUE WHEN NOT FOUND;
    _done := _done + 1;
    IF ff.revive(_x, _keys[i], _bodies[i]) THEN _touched := _touched || _x.name; END IF;
  END LOOP;
  PERFORM ff.wake(name) FROM ff.subscription WHERE name = ANY (_touched);
  RETURN _done;
END $$;

-- In one order everywhere, so that nobody waits in a circle.
CREATE FUNCTION ff.lock_subscriptions_of(_ids bigint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM ff.subscription WHERE name IN (SELECT x.name FROM ff.dead_letter x WHERE x.id = ANY (_ids))
  ORDER BY name FOR NO KEY UPDATE;
END $$;

-- One dead letter becomes a delivery again. Answers whether it does.
CREATE FUNCTION ff.revive(_x ff.dead_letter, _key text, _body bytea) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  _s ff.subscription;
  _lane bigint := hashtextextended(_key, 0);
  _parked boolean;
  _current boolean;
  _on_its_way boolean;
  _head boolean := true;
BEGIN
  SELECT * INTO _s FROM ff.subscription WHERE name = _x.name;
  IF NOT FOUND THEN RETURN false; END IF;
  UPDATE ff.lane SET parked = false WHERE sub = _s.id AND pos = _x.pos AND parked;
  _parked := FOUND;
  _current := _x.generation = _s.generation;
  _on_its_way := ff.is_unsettled(_s.id, _x.pos);
  IF _current THEN
    -- Where a letter of the same event from before a seek was redriven, one delivery serves both.
    UPDATE ff.tally SET dead = dead - 1,
      extra = CASE WHEN _on_its_way THEN greatest(extra - 1, 0) ELSE extra END
    WHERE sub = _s.id AND block = _x.pos >> 16;
  ELSIF _x.pos <= _s.frontier AND NOT _on_its_way THEN
    INSERT INTO ff.tally (sub, block, extra) VALUES (_s.id, _x.pos >> 16, 1)
    ON CONFLICT (sub, block) DO UPDATE SET extra = tally.extra + 1;
  ELSE
    -- Since the seek it is on its way again anyway.
    RETURN false;
  END IF;
  IF _on_its_way THEN RETURN false; END IF;
  INSERT INTO ff.story (sub, pos, body) VALUES (_s.id, _x.pos, _body)
  ON CONFLICT (sub, pos) DO UPDATE SET body = excluded.body;
  IF NOT _parked AND _key <> '' THEN
    INSERT INTO ff.lane (sub, pos, key, head)
    SELECT _s.id, _x.pos, _lane, NOT EXISTS (SELECT FROM ff.lane WHERE sub = _s.id AND key = _lane)
    RETURNING head INTO _head;
  END IF;
  IF _head THEN INSERT INTO ff.waiting (sub, pos, due) VALUES (_s.id, _x.pos, '-infinity'); END IF;
  RETURN true;
END $$;

-- Removes dead letters for good. Answers how many were there.
CREATE FUNCTION ff.discard(_ids bigint[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  _x record;
  _done bigint := 0;
BEGIN
  PERFORM ff.lock_subscriptions_of(_ids);
  FOR _x IN
    WITH gone AS (DELETE FROM ff.dead_letter WHERE id = ANY (_ids) RETURNING name, pos, generation)
    SELECT s.id, array_agg(g.pos) AS positions,
      array_agg(g.pos) FILTER (WHERE g.generation = s.generation) AS current, s.name
    FROM gone g LEFT JOIN ff.subscription s ON s.name = g.name GROUP BY s.id, s.name
  LOOP
    _done := _done + cardinality(_x.positions);
    UPDATE ff.tally SET dead = dead - n, dropped = dropped + n
    FROM (SELECT pos >> 16 AS block, count(*) AS n FROM unnest(_x.current) pos GROUP BY 1) b
    WHERE tally.sub = _x.id AND tally.block = b.block;
    IF ff.leave(_x.id, ARRAY(
      SELECT pos FROM ff.lane WHERE sub = _x.id AND pos = ANY (_x.positions) AND parked
    )) > 0 THEN
      PERFORM ff.wake(_x.name);
    END IF;
  END LOOP;
  RETURN _done;
END $$;

-- Replaces the body of a dead letter; the first original stays beside it. Answers changed | stale | gone.
CREATE FUNCTION ff.replace_body(_id bigint, _before bytea, _after bytea, _original bytea)
RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  UPDATE ff.dead_letter SET body = _after, original = coalesce(original, _original)
  WHERE id = _id AND body = _before;
  IF FOUND THEN RETURN 'changed'; END IF;
  RETURN CASE WHEN EXISTS (SELECT FROM ff.dead_letter WHERE id = _id) THEN 'stale' ELSE 'gone' END;
END $$;
