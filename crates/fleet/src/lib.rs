//! One member's side of a subscription that several processes share: reading ahead, claiming,
//! handing out. What the engine does at once is behind a trait. Used by the Redis and PostgreSQL
//! backends; backends of one process use the cursor crate instead.
