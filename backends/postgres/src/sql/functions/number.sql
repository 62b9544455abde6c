-- The decimal number of 64 bits that a value is; null where it is none.
CREATE FUNCTION ff.number(value bytea) RETURNS numeric LANGUAGE sql IMMUTABLE STRICT AS $$
  SELECT CASE WHEN encode(value, 'escape') ~ '^-?[0-9]{1,19}$' THEN encode(value, 'escape')::numeric END
$$;
