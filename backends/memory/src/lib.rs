//! The in-memory backend: for tests, for development, and for events that may die with the process.
//!
//! Bounded: when it is full it evicts what every subscription has settled, oldest first, and where
//! nothing is settled publishers get [`Full`](fanfare_core::ErrorKind::Full). It keeps every promise
//! that does not need a disk.

mod admin;
mod backend;
mod config;
mod consume;
mod dead_letters;
mod history;
mod log;
mod publish;
mod state;
mod subscription;

pub use backend::MemoryBackend;
pub use config::MemoryConfig;
