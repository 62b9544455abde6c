-- After the last step: who may use the schema may not yet call what runs as its owner.
DO $$ BEGIN EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA %I FROM PUBLIC', 'ff'); END $$;
