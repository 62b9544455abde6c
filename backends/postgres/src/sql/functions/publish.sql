-- Publishing from SQL: any driver, in the caller's own transaction. An event is there if that commits.

-- A number of 7 bits a byte, lowest first, as fanfare_core::record writes it.
CREATE FUNCTION ff.leb128(value numeric) RETURNS bytea LANGUAGE plpgsql IMMUTABLE STRICT AS $$
DECLARE
  rest numeric := value;
  encoded bytea := '';
  low int;
BEGIN
  LOOP
    low := mod(rest, 128)::int;
    rest := div(rest, 128);
    IF rest = 0 THEN
      RETURN encoded || set_byte('\x00', 0, low);
    END IF;
    encoded := encoded || set_byte('\x00', 0, low + 128);
  END LOOP;
END $$;

CREATE FUNCTION ff.counted(value text) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT AS $$
  SELECT ff.leb128(octet_length(value)) || convert_to(value, 'UTF8')
$$;

-- The attributes of an event, as fanfare_core::record writes them. `kind`: 0 no data, 1 JSON, 2 text,
-- 3 bytes.
CREATE FUNCTION ff.attributes(
  kind int, subject text, at timestamptz, content_type text, extensions jsonb)
RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  is_json boolean := coalesce(content_type = 'application/json', false);
  nanos numeric := extract(epoch FROM at)::numeric * 1000000000;
  encoded bytea := '\x01'::bytea || set_byte('\x00', 0, kind
    + CASE WHEN subject IS NULL THEN 0 ELSE 4 END
    + CASE WHEN at IS NULL THEN 0 ELSE 8 END
    + CASE WHEN content_type IS NULL OR is_json THEN 0 ELSE 16 END
    + CASE WHEN is_json THEN 32 ELSE 0 END);
  member record;
  count int := 0;
  written bytea := '';
BEGIN
  IF subject IS NOT NULL THEN
    encoded := encoded || ff.counted(subject);
  END IF;
  IF at IS NOT NULL THEN
    encoded := encoded || ff.leb128(trunc(CASE WHEN nanos < 0 THEN -2 * nanos - 1 ELSE 2 * nanos END));
  END IF;
  IF content_type IS NOT NULL AND NOT is_json THEN
    encoded := encoded || ff.counted(content_type);
  END IF;
  FOR member IN SELECT key, value FROM jsonb_each(coalesce(extensions, '{}')) ORDER BY key COLLATE "C" LOOP
    IF member.key !~ '^[a-z0-9]{1,20}$' OR member.key IN ('id', 'source', 'type', 'subject', 'time', 'data',
        'specversion', 'datacontenttype', 'dataschema') THEN
      RAISE EXCEPTION 'an extension name is 1 to 20 of a-z and 0-9, not "%"', member.key USING ERRCODE = '22023';
    END IF;
    count := count + 1;
    written := written || ff.counted(member.key) || CASE jsonb_typeof(member.value)
      WHEN 'boolean' THEN CASE WHEN member.value::boolean THEN '\x01'::bytea ELSE '\x00'::bytea END
      WHEN 'number' THEN '\x02'::bytea || ff.leb128(
        CASE WHEN member.value::int < 0 THEN -2 * member.value::numeric - 1 ELSE 2 * member.value::numeric END)
      WHEN 'string' THEN '\x03'::bytea || ff.counted(member.value #>> '{}')
    END;
    IF written IS NULL THEN
      RAISE EXCEPTION 'the extension "%" is no text, whole number or boolean', member.key USING ERRCODE = '22023';
    END IF;
  END LOOP;
  RETURN encoded || ff.leb128(count) || written;
END $$;

-- A UUIDv7.
CREATE FUNCTION ff.new_id() RETURNS text LANGUAGE sql VOLATILE AS $$
  SELECT encode(set_bit(set_bit(
    overlay(uuid_send(gen_random_uuid()) PLACING
      substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
    52, 1), 53, 1), 'hex')::uuid::text
$$;

-- What the three functions below share.
CREATE FUNCTION ff.publish_one(
  type text, kind int, body bytea, id text, source text, key text, at timestamptz, subject text,
  content_type text, extensions jsonb, ordered boolean)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  attributes bytea;
  appended bigint;
  name text := coalesce(source, '/postgres/' || current_database());
  identity text := coalesce(id, ff.new_id());
BEGIN
  IF type IS NULL OR octet_length(type) > 200 OR type !~ '^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){0,15}$' THEN
    RAISE EXCEPTION 'an event type is 1 to 16 segments of A-Z a-z 0-9 _ and -, with dots between, not "%"', type
      USING ERRCODE = '22023';
  END IF;
  IF identity ~ '[\x01-\x1f\x7f]' OR octet_length(identity) NOT BETWEEN 1 AND 1024 THEN
    RAISE EXCEPTION 'an id is 1 to 1024 bytes without control characters' USING ERRCODE = '22023';
  END IF;
  IF name ~ '[\x01-\x20\x7f]' OR octet_length(name) NOT BETWEEN 1 AND 1024 THEN
    RAISE EXCEPTION 'a source is a URI reference of 1 to 1024 bytes' USING ERRCODE = '22023';
  END IF;
  IF key IS NOT NULL THEN
    IF ordered THEN
      PERFORM ff.lock_keys(ARRAY[key]);
    END IF;
    extensions := coalesce(extensions, '{}') || jsonb_build_object('partitionkey', key);
  END IF;
  attributes := ff.attributes(
    CASE WHEN body IS NULL THEN 0 ELSE kind END, subject, at,
    CASE WHEN body IS NOT NULL THEN content_type END, extensions);
  SELECT a.positions[1] INTO appended FROM ff.append(
    ARRAY[name], ARRAY[type], ARRAY[1], ARRAY[1], ARRAY[ff.id_bytes(identity)],
    ARRAY[extensions ->> 'partitionkey'], ARRAY[attributes], ARRAY[coalesce(body, '')]) AS a;
  RETURN appended;
END $$;

-- These run as their owner: to publish, a role needs USAGE on the schema and EXECUTE on them, and no
-- right on any table.
--
-- Publishes one event and answers its position; that of the first where the id was published before.
-- `source` and `id` together identify it; `at` is when it happened; `ordered` makes events of one key
-- commit in the order of their positions (call ff.lock_keys first to publish several keys so).
CREATE FUNCTION ff.publish(
  type text, data jsonb DEFAULT NULL, id text DEFAULT NULL, source text DEFAULT NULL, key text DEFAULT NULL,
  at timestamptz DEFAULT NULL, subject text DEFAULT NULL, extensions jsonb DEFAULT NULL,
  ordered boolean DEFAULT false)
RETURNS bigint LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT ff.publish_one(type, 1, convert_to(data::text, 'UTF8'), id, source, key, at, subject,
    NULL, extensions, ordered)
$$;

-- The same with text as data.
CREATE FUNCTION ff.publish_text(
  type text, data text, id text DEFAULT NULL, source text DEFAULT NULL, key text DEFAULT NULL,
  at timestamptz DEFAULT NULL, subject text DEFAULT NULL, extensions jsonb DEFAULT NULL,
  ordered boolean DEFAULT false, content_type text DEFAULT 'text/plain')
RETURNS bigint LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT ff.publish_one(type, 2, convert_to(data, 'UTF8'), id, source, key, at, subject, content_type,
    extensions, ordered)
$$;

-- The same with bytes as data, kept as they are.
CREATE FUNCTION ff.publish_bytes(
  type text, data bytea, id text DEFAULT NULL, source text DEFAULT NULL, key text DEFAULT NULL,
  at timestamptz DEFAULT NULL, subject text DEFAULT NULL, extensions jsonb DEFAULT NULL,
  ordered boolean DEFAULT false, content_type text DEFAULT NULL)
RETURNS bigint LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT ff.publish_one(type, 3, data, id, source, key, at, subject, content_type, extensions, ordered)
$$;
