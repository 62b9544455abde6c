//! The NATS backend: a JetStream log, and one record per subscription that is written over the one it
//! was made from or not at all.
//!
//! Publishers store one message per event. Each process follows the log with one consumer of its own.
//! What members claim and settle is decided by the pure cursor on the subscription's record; the
//! server refuses a record that was made from an old one, so of several processes one is first and the
//! others do theirs again.
//!
//! And where asked for, core NATS: at most once, nothing kept ([`NatsCore`]).

mod admin;
mod advice;
mod backend;
mod books;
mod config;
mod connect;
mod consume;
mod core_nats;
mod dead_letters;
mod desk;
mod error;
mod follow;
mod form;
mod history;
mod letter;
mod log;
mod loss;
mod names;
mod publish;
mod record;
mod remove;
mod retention;
mod row;
mod state;
mod streams;

pub use backend::NatsBackend;
pub use config::NatsConfig;
pub use core_nats::{CoreConfig, NatsCore};
pub use form::{Form, MessageForm};
