-- Before the steps: only one opener at a time, and a place for everything.
SELECT pg_advisory_xact_lock(hashtextextended('ff', 71));
DO $$
BEGIN
  IF to_regnamespace(quote_ident('ff')) IS NULL THEN
    EXECUTE format('CREATE SCHEMA %I', 'ff');
  END IF;
END $$;
CREATE TABLE IF NOT EXISTS ff.migration (
  number int PRIMARY KEY,
  name text NOT NULL,
  applied timestamptz NOT NULL DEFAULT now()
);
