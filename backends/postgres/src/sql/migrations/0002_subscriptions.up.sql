-- Subscriptions and what is unsettled of them. (Being built.)

-- The lowest position that any subscription still needs; none: nothing. Retention keeps from there.
CREATE FUNCTION ff.needed() RETURNS bigint LANGUAGE sql AS $$ SELECT NULL::bigint $$;

-- Called by retention in the transaction that removes every event up to and including `upto`, and
-- before it does: false where something is needed there after all. Accounts for what goes.
CREATE FUNCTION ff.forget(upto bigint) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$;
