//! Two services and the events between them. `source-manager` owns the sources that are to be crawled,
//! `crawler` owns the jobs that crawl them; jobs follow their sources by events alone.
//!
//! ```text
//!  POST /api/v1/sources                                       GET /api/v1/jobs
//!        |                                                           |
//!  source-manager                                                 crawler --> the web
//!        | one transaction                        one transaction    |
//!        v                                                           v
//!  sources + outbox  --relay-->  Redis, source-events  -->  processed_events + jobs
//!   (PostgreSQL)                                               (PostgreSQL)
//! ```
//!
//! Read [`events`], then [`source_manager`], then [`crawler`]. Not a library for others: it is one so
//! that two programs, the tests and `--example dev` share it.

pub mod crawler;
pub mod database;
pub mod events;
pub mod http;
pub mod redis_stream;
pub mod schedule;
pub mod settings;
pub mod source_manager;

/// What stops a service from starting, or ends it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Logs to stderr, as much as `RUST_LOG` says; `info` unless it says anything.
pub fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}
