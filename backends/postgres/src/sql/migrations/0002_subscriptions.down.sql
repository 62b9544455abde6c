DROP FUNCTION ff.forget(bigint);
DROP FUNCTION ff.needed();
