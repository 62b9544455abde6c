-- After the last step back: nothing of the stream is left.
DROP TABLE ff.migration;
DO $$ BEGIN EXECUTE format('DROP SCHEMA %I', 'ff'); END $$;
