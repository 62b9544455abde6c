//! The PostgreSQL backend: an append-only log with leases over ranges, one schema per stream.
//!
//! Publishers insert, in transactions of their own or of their callers. One process of a stream
//! follows the sequence's locks to know up to where nothing earlier can still come; readers go no
//! further. Each subscription has a claim frontier and leases over ranges. What must happen at once
//! is a function in the stream's schema.

mod admin;
mod advice;
mod backend;
mod config;
mod connect;
mod consume;
mod dead_letters;
mod error;
mod follow;
mod history;
mod horizon;
mod log;
mod loss;
mod mend;
mod migrate;
mod names;
mod outbox;
mod own;
mod publish;
mod remove;
mod retention;
mod row;
mod rows;
mod state;
mod subscription;
mod wire;

pub use backend::PostgresBackend;
pub use config::PostgresConfig;
