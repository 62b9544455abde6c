-- Where each durable subscription stands with these events: leased, waiting (and until when), dead,
-- or settled.
CREATE FUNCTION ff.deliveries(_positions bigint[])
RETURNS TABLE (event bigint, subscription text, state text, tries int, due timestamptz)
LANGUAGE sql STABLE AS $$
  SELECT l.pos, s.name,
    CASE WHEN leased.yes THEN 'leased'
      WHEN w.pos IS NOT NULL OR behind.pos IS NOT NULL OR l.pos > s.frontier THEN 'waiting'
      WHEN dead.attempts IS NOT NULL THEN 'dead' ELSE 'settled' END,
    coalesce(story.attempts, dead.attempts, 0),
    CASE WHEN isfinite(w.due) THEN w.due END
  FROM ff.log l
  JOIN ff.type t ON t.number = l.type
  CROSS JOIN ff.subscription s
  CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM ff.lease WHERE sub = s.id AND held @> l.pos) AS yes) leased
  LEFT JOIN ff.waiting w ON w.sub = s.id AND w.pos = l.pos
  LEFT JOIN ff.lane behind ON behind.sub = s.id AND behind.pos = l.pos AND NOT behind.head
  LEFT JOIN ff.story ON story.sub = s.id AND story.pos = l.pos
  LEFT JOIN LATERAL (
    SELECT x.attempts FROM ff.dead_letter x WHERE x.name = s.name AND x.pos = l.pos ORDER BY id DESC LIMIT 1
  ) dead ON true
  WHERE l.pos = ANY (_positions) AND NOT s.ephemeral AND (
    leased.yes OR w.pos IS NOT NULL OR behind.pos IS NOT NULL OR l.pos > s.base AND EXISTS (
      SELECT FROM ff.parts(s.interest) p
      WHERE p.after < l.pos AND l.pos <= p.upto AND '.' || t.name ~ p.types
    )
  )
  ORDER BY l.pos, s.name
$$;

-- Where events with this id stand, of one source or of all. The planner does not know what the index of
-- ids can rule out, and would rather read everything.
CREATE FUNCTION ff.with_id(_id bytea, _source text) RETURNS SETOF bigint LANGUAGE plpgsql STABLE
SET enable_seqscan = off AS $$
BEGIN
  RETURN QUERY SELECT pos FROM ff.log
  WHERE id = _id AND (_source IS NULL OR source IN (SELECT number FROM ff.source WHERE name = _source));
END $$;
