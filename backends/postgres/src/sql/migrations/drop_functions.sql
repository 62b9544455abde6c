-- Before a step, up or down: functions are of one version of the tables, and come anew after it.
DO $$
DECLARE
  f regprocedure;
BEGIN
  FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = to_regnamespace(quote_ident('ff')) LOOP
    EXECUTE format('DROP FUNCTION %s CASCADE', f);
  END LOOP;
  DELETE FROM ff.migration WHERE number = 0;
END $$;
