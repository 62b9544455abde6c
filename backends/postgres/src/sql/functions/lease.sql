-- What the functions of a subscription share. Each expects its row to be locked.

-- The end of the log as committed: everything acknowledged before lies at or below.
CREATE FUNCTION ff.head() RETURNS bigint LANGUAGE sql VOLATILE AS $$
  SELECT coalesce(max(pos), 0) FROM ff.log
$$;

-- Tells waiting members that they would find more now than when they looked.
CREATE FUNCTION ff.wake(_name text) RETURNS void LANGUAGE sql AS $$
  SELECT pg_notify('ff', 'w:' || _name)
$$;

-- A number that never repeats, even if the last one was lost with the server.
CREATE FUNCTION ff.later_than(_last bigint) RETURNS bigint LANGUAGE sql AS $$
  SELECT greatest(_last + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
$$;

-- What this transaction does is not waited for: were it lost with the server, events would only come
-- again.
CREATE FUNCTION ff.unsynced() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
END $$;

CREATE FUNCTION ff.positions(_held int8multirange) RETURNS SETOF bigint LANGUAGE sql IMMUTABLE AS $$
  SELECT generate_series(lower(r), upper(r) - 1) FROM unnest(_held) r
$$;

-- Puts a lease, or a part of one, into a free slot.
CREATE FUNCTION ff.lay(
  _sub int, _epoch bigint, _member bigint, _kind "char", _until timestamptz, _held int8multirange
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE ff.lease SET epoch = _epoch, member = _member, kind = _kind, until = _until, held = _held
  WHERE sub = _sub AND slot = (SELECT min(slot) FROM ff.lease WHERE sub = _sub AND epoch = 0);
  IF NOT FOUND THEN
    INSERT INTO ff.lease (sub, slot, epoch, member, kind, until, held)
    SELECT _sub, coalesce(max(slot), 0) + 1, _epoch, _member, _kind, _until, _held
    FROM ff.lease WHERE sub = _sub;
  END IF;
END $$;

-- Empties slots.
CREATE FUNCTION ff.free(_sub int, _slots int[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  UPDATE ff.lease SET epoch = 0, member = 0, kind = 'f', until = 'infinity', held = '{}'
  WHERE sub = _sub AND slot = ANY (_slots);
END $$;

-- Ends every lease that is over: what is left of it becomes suspect. Answers when the next one ends.
CREATE FUNCTION ff.expire(_sub int, _now timestamptz) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
  _over int[] := ARRAY(SELECT slot FROM ff.lease WHERE sub = _sub AND until <= _now);
BEGIN
  INSERT INTO ff.waiting (sub, pos)
  SELECT _sub, p FROM ff.lease, ff.positions(held) p WHERE sub = _sub AND slot = ANY (_over);
  PERFORM ff.free(_sub, _over);
  RETURN coalesce((SELECT min(until) FROM ff.lease WHERE sub = _sub), 'infinity');
END $$;

-- These are settled for good: the next event of each of their keys may come. Answers how many may.
CREATE FUNCTION ff.leave(_sub int, _positions bigint[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  _keys bigint[];
  _heirs bigint;
BEGIN
  WITH gone AS (DELETE FROM ff.lane WHERE sub = _sub AND pos = ANY (_positions) RETURNING key, head)
  SELECT array_agg(key) INTO _keys FROM gone WHERE head;
  IF _keys IS NULL THEN RETURN 0; END IF;
  WITH heir AS (
    UPDATE ff.lane SET head = true FROM unnest(_keys) left_, LATERAL (
      SELECT pos FROM ff.lane WHERE sub = _sub AND key = left_ ORDER BY pos LIMIT 1
    ) next WHERE lane.sub = _sub AND lane.pos = next.pos RETURNING lane.pos
  )
  INSERT INTO ff.waiting (sub, pos, due) SELECT _sub, pos, '-infinity' FROM heir;
  GET DIAGNOSTICS _heirs = ROW_COUNT;
  RETURN _heirs;
END $$;

-- Whether a position below the frontier waits, is leased, or stands behind another.
CREATE FUNCTION ff.is_unsettled(_sub int, _pos bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT EXISTS (SELECT FROM ff.waiting WHERE sub = _sub AND pos = _pos)
    OR EXISTS (SELECT FROM ff.lane WHERE sub = _sub AND pos = _pos AND NOT head)
    OR EXISTS (SELECT FROM ff.lease WHERE sub = _sub AND held @> _pos)
$$;

-- Why a receipt settles nothing: L(ate), A(lready), U(nknown).
CREATE FUNCTION ff.refusal(_s ff.subscription, _pos bigint) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE
    WHEN _pos > _s.frontier OR _pos <= _s.base THEN CASE WHEN _s.generation > 0 THEN 'L' ELSE 'U' END
    WHEN ff.is_unsettled(_s.id, _pos) THEN 'L'
    ELSE 'A'
  END
$$;

-- A letter for each receipt of each run: D where it is among what was got, else why not. One letter
-- for all of a run that was got whole.
CREATE FUNCTION ff.answer(
  _s ff.subscription, _firsts bigint[], _counts int[], _ords int[], _got int8multirange[]
) RETURNS text[] LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN (
    WITH got AS (
      SELECT g.ord, range_agg(r) AS held, sum(upper(r) - lower(r)) AS n
      FROM unnest(_ords, _got) g(ord, held), unnest(g.held) r GROUP BY g.ord
    )
    SELECT array_agg(
      CASE WHEN got.n = run.count THEN 'D' ELSE (
        SELECT string_agg(CASE WHEN got.held @> p THEN 'D' ELSE ff.refusal(_s, p) END, '' ORDER BY p)
        FROM generate_series(run.first, run.first + run.count - 1) p
      ) END ORDER BY run.ord)
    FROM unnest(_firsts, _counts) WITH ORDINALITY run(first, count, ord) LEFT JOIN got USING (ord)
  );
END $$;

-- Counts settled deliveries as a(cknowledged), d(ropped) or x (dead).
CREATE FUNCTION ff.count(_sub int, _how text[], _got int8multirange[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO ff.tally (sub, block, acknowledged, dropped, dead)
  SELECT _sub, block, coalesce(sum(n) FILTER (WHERE how = 'a'), 0),
    coalesce(sum(n) FILTER (WHERE how = 'd'), 0), coalesce(sum(n) FILTER (WHERE how = 'x'), 0)
  FROM unnest(_how, _got) g(how, held), unnest(g.held) r,
    generate_series(lower(r) >> 16, (upper(r) - 1) >> 16) block,
    LATERAL (SELECT least(upper(r), (block + 1) << 16) - greatest(lower(r), block << 16) AS n) part
  WHERE how IN ('a', 'd', 'x') GROUP BY block
  ON CONFLICT (sub, block) DO UPDATE SET acknowledged = tally.acknowledged + excluded.acknowledged,
    dropped = tally.dropped + excluded.dropped, dead = tally.dead + excluded.dead;
END $$;

-- Removes everything that a subscription holds in flight; for seek and delete.
CREATE FUNCTION ff.abandon(_sub int) RETURNS void LANGUAGE sql AS $$
  DELETE FROM ff.lease WHERE sub = _sub;
  DELETE FROM ff.waiting WHERE sub = _sub;
  DELETE FROM ff.story WHERE sub = _sub;
  DELETE FROM ff.lane WHERE sub = _sub;
  DELETE FROM ff.tally WHERE sub = _sub;
$$;
