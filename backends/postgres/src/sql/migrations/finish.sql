-- After the functions: who may use the schema may not yet call what runs as its owner.
DO $$ BEGIN EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA %I FROM PUBLIC', 'ff'); END $$;
INSERT INTO ff.migration (number, name) VALUES (0, 'functions');
