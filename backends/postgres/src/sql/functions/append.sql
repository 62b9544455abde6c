-- Publishing. Everything here runs in the caller's transaction and keeps no state of its session.

-- A row that another may read must not vanish in a crash after it was read.
CREATE FUNCTION ff.sync_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('synchronous_commit') = 'off' THEN
    PERFORM set_config('synchronous_commit', 'local', true);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER sync_guard BEFORE INSERT ON ff.log
  FOR EACH STATEMENT EXECUTE FUNCTION ff.sync_guard();

-- An id as the log keeps it: a canonical UUID's 16 bytes; else the text behind zero bytes, so many
-- that it is not 16 long. No id begins with a zero byte.
CREATE FUNCTION ff.id_bytes(id text) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT AS $$
  SELECT CASE
    WHEN id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' THEN uuid_send(id::uuid)
    WHEN octet_length(id) = 15 THEN '\x0000'::bytea || convert_to(id, 'UTF8')
    ELSE '\x00'::bytea || convert_to(id, 'UTF8')
  END
$$;

-- The numbers of names, given out where they are new. Two functions of the same shape.
DO $generate$
DECLARE
  dictionary text;
BEGIN
  FOREACH dictionary IN ARRAY ARRAY['source', 'type'] LOOP
    EXECUTE format($template$
      CREATE FUNCTION ff.%1$s_numbers(names text[]) RETURNS int[] LANGUAGE plpgsql AS $$
      DECLARE
        numbers int[];
        given int;
      BEGIN
        -- One known name is the usual case, and a fifth of the work.
        IF cardinality(names) = 1 THEN
          SELECT d.number INTO given FROM ff.%1$s AS d WHERE d.name = names[1] ORDER BY d.number LIMIT 1;
          IF FOUND THEN
            RETURN ARRAY[given];
          END IF;
        END IF;
        SELECT array_agg((SELECT d.number FROM ff.%1$s AS d WHERE d.name = u.name ORDER BY d.number LIMIT 1) ORDER BY u.n)
          INTO numbers FROM unnest(names) WITH ORDINALITY AS u (name, n);
        IF array_position(numbers, NULL) IS NOT NULL THEN
          FOR place IN 1..cardinality(names) LOOP
            IF numbers[place] IS NULL THEN
              INSERT INTO ff.%1$s (name) VALUES (names[place]) RETURNING number INTO given;
              numbers[place] := given;
            END IF;
          END LOOP;
        END IF;
        RETURN numbers;
      END $$
    $template$, dictionary);
  END LOOP;
END $generate$;

-- Notes ids in the current bucket, unless they are in it or the previous one, and draws a position for
-- each that is new: positions by place, none where the id was known. While transactions with the view
-- before the last rotation are open (`overlap`), the previous bucket decides, because they write to it.
-- One function per bucket, so that plans are kept.
DO $generate$
BEGIN
  FOR bucket IN 0..2 LOOP
    EXECUTE format($template$
      CREATE FUNCTION ff.remember_%1$s(sources bigint[], ids bytea[], overlap boolean)
      RETURNS bigint[] LANGUAGE plpgsql AS $$
      DECLARE
        fresh bigint[];
        fresh_sources bigint[];
        fresh_ids bytea[];
        positions bigint[];
        given bigint;
        met int := 1;
      BEGIN
        -- One event, as a caller's own transaction publishes it: a sixth of the work.
        IF NOT overlap AND cardinality(ids) = 1 THEN
          IF NOT EXISTS (SELECT FROM ff.ids_%2$s AS p WHERE p.source = sources[1] AND p.id = ids[1]) THEN
            INSERT INTO ff.ids_%1$s (source, id, pos) VALUES (sources[1], ids[1], nextval('ff.log_pos'))
              ON CONFLICT DO NOTHING RETURNING pos INTO given;
          END IF;
          RETURN ARRAY[given];
        END IF;
        -- Many ids, all of them new, are the usual case, and it costs half. A failed try leaves a gap.
        -- Ids of UUIDv7 lie behind those of the previous bucket: one look tells.
        IF NOT overlap AND cardinality(ids) >= 8 AND (
          sources[1] = ALL (sources) AND coalesce(
            (SELECT p.id FROM ff.ids_%2$s AS p WHERE p.source = sources[1] ORDER BY p.source DESC, p.id DESC LIMIT 1)
            < (SELECT id FROM unnest(ids) AS id ORDER BY id LIMIT 1), true)
          OR NOT EXISTS (
            SELECT FROM unnest(sources, ids) AS e (source, id)
            JOIN ff.ids_%2$s AS p ON p.source = e.source AND p.id = e.id)) THEN
          positions := ARRAY(SELECT nextval('ff.log_pos') FROM generate_series(1, cardinality(ids)));
          BEGIN
            INSERT INTO ff.ids_%1$s (source, id, pos) SELECT * FROM unnest(sources, ids, positions);
            RETURN positions;
          EXCEPTION WHEN unique_violation THEN
            positions := NULL;
          END;
        END IF;
        IF overlap THEN
          WITH stored AS (
            INSERT INTO ff.ids_%2$s (source, id, pos)
              SELECT e.source, e.id, nextval('ff.log_pos')
              FROM unnest(sources, ids) WITH ORDINALITY AS e (source, id, n)
              ORDER BY e.n ON CONFLICT DO NOTHING RETURNING source, id, pos),
          again AS (INSERT INTO ff.ids_%1$s (source, id, pos) SELECT source, id, pos FROM stored)
          SELECT array_agg(pos ORDER BY pos), array_agg(source ORDER BY pos), array_agg(id ORDER BY pos)
            INTO fresh, fresh_sources, fresh_ids FROM stored;
        ELSE
          WITH stored AS (
            INSERT INTO ff.ids_%1$s (source, id, pos)
              SELECT e.source, e.id, nextval('ff.log_pos')
              FROM unnest(sources, ids) WITH ORDINALITY AS e (source, id, n)
              WHERE NOT EXISTS (SELECT FROM ff.ids_%2$s AS p WHERE p.source = e.source AND p.id = e.id)
              ORDER BY e.n ON CONFLICT DO NOTHING RETURNING source, id, pos)
          SELECT array_agg(pos ORDER BY pos), array_agg(source ORDER BY pos), array_agg(id ORDER BY pos)
            INTO fresh, fresh_sources, fresh_ids FROM stored;
        END IF;
        IF cardinality(fresh) = cardinality(ids) THEN
          RETURN fresh;
        END IF;
        -- What is new came in the order of its places.
        FOR place IN 1..cardinality(ids) LOOP
          IF sources[place] = fresh_sources[met] AND ids[place] = fresh_ids[met] THEN
            positions[place] := fresh[met];
            met := met + 1;
          ELSE
            positions[place] := NULL;
          END IF;
        END LOOP;
        RETURN positions;
      END $$
    $template$, bucket, (bucket + 2) % 3);
  END LOOP;
END $generate$;

-- The positions of ids that are known.
CREATE FUNCTION ff.known(sources bigint[], ids bytea[]) RETURNS bigint[] LANGUAGE sql AS $$
  SELECT array_agg(
    (SELECT max(k.pos) FROM (
      SELECT i.pos FROM ff.ids_0 AS i WHERE i.source = e.source AND i.id = e.id UNION ALL
      SELECT i.pos FROM ff.ids_1 AS i WHERE i.source = e.source AND i.id = e.id UNION ALL
      SELECT i.pos FROM ff.ids_2 AS i WHERE i.source = e.source AND i.id = e.id) AS k)
    ORDER BY e.n)
  FROM unnest(sources, ids) WITH ORDINALITY AS e (source, id, n)
$$;

-- Appends events, each at most once in a call: `source_of` and `type_of` are places in the two lists
-- of names. Answers a position for each, and which were there before.
CREATE FUNCTION ff.append(
  source_names text[], type_names text[],
  source_of int[], type_of int[], ids bytea[], keys text[], attributes bytea[], bodies bytea[],
  OUT positions bigint[], OUT duplicates boolean[])
LANGUAGE plpgsql AS $$
DECLARE
  source_numbers int[] := ff.source_numbers(source_names);
  type_numbers int[] := ff.type_numbers(type_names);
  hashes bigint[];
  sources bigint[];
  bucket int;
  overlap boolean;
  older bigint[];
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    -- An old snapshot could name a bucket of long ago; locking the row finds that out.
    PERFORM FROM ff.bucket FOR SHARE;
  END IF;
  SELECT b.current, b.overlap IS NOT NULL INTO bucket, overlap FROM ff.bucket AS b;
  IF cardinality(source_names) = 1 THEN
    sources := array_fill(hashtextextended(source_names[1], 0), ARRAY[cardinality(ids)]);
  ELSE
    hashes := ARRAY(SELECT hashtextextended(u.name, 0) FROM unnest(source_names) WITH ORDINALITY AS u (name, n) ORDER BY u.n);
    sources := ARRAY(SELECT hashes[e.place] FROM unnest(source_of) WITH ORDINALITY AS e (place, n) ORDER BY e.n);
  END IF;
  CASE bucket
    WHEN 0 THEN positions := ff.remember_0(sources, ids, overlap);
    WHEN 1 THEN positions := ff.remember_1(sources, ids, overlap);
    ELSE positions := ff.remember_2(sources, ids, overlap);
  END CASE;
  INSERT INTO ff.log (pos, source, type, id, key, attrs, data) OVERRIDING SYSTEM VALUE
    SELECT e.pos, source_numbers[e.source], type_numbers[e.type], e.id, e.key, e.attrs, e.data
    FROM unnest(positions, source_of, type_of, ids, keys, attributes, bodies)
      AS e (pos, source, type, id, key, attrs, data)
    WHERE e.pos IS NOT NULL;
  IF array_position(positions, NULL) IS NOT NULL THEN
    older := ff.known(sources, ids);
    SELECT array_agg(coalesce(e.pos, e.older) ORDER BY e.n), array_agg(e.pos IS NULL ORDER BY e.n)
      INTO positions, duplicates
      FROM unnest(positions, older) WITH ORDINALITY AS e (pos, older, n);
  END IF;
END $$;

-- Makes events of the same key commit in the order of their positions: holds a lock per bucket of keys
-- until the transaction ends. Call it once per transaction, with all its keys, before the first event.
CREATE FUNCTION ff.lock_keys(keys text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  bucket int;
BEGIN
  -- Ordered by bucket: two transactions never wait for each other.
  FOR bucket IN SELECT DISTINCT hashtext(k) & 1023 FROM unnest(keys) AS k WHERE k IS NOT NULL ORDER BY 1 LOOP
    PERFORM pg_advisory_xact_lock(hashtext('ff'), bucket);
  END LOOP;
END $$;
