//! The PostgreSQL backend: an append-only log, a claim frontier for each subscription, leases over
//! ranges. What must happen at once is a function in the database.
