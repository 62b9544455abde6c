//! The embedded durable backend: one SQLite database for each stream, owned by one process.
//!
//! ```text
//!            publish, settle, admin, state
//!                         |  bounded queue
//!                   one writer thread --- group commit, FULL --> <stream>.db + write-ahead log
//!                         |  after each commit                        |
//!                   tail in memory --> consumers that keep up         |  read-only connections
//!                                      consumers behind, history <----+
//! ```
//! The log is append-only. Each subscription is a [`fanfare_cursor::Cursor`] in memory whose changes
//! ride along with the next commit; claims become rows only when a commit finds them unsettled.
//! Events are handed to handlers elsewhere: this crate stores, moves and leases.

mod admin;
mod backend;
mod backup;
mod census;
mod config;
mod connect;
mod consume;
mod dead_letters;
mod disk;
mod error;
mod few;
mod history;
mod names;
mod publish;
mod readers;
mod recovery;
mod remove;
mod retention;
mod row;
mod running;
mod state;
mod stream;
mod subscription;
mod tail;
mod verify;
mod writer;

pub use backend::SqliteBackend;
pub use backup::back_up;
pub use config::{DEFAULT_STREAM, SqliteConfig};
pub use remove::remove;
pub use verify::Verified;
