//! The words and the contract of Fanfare.
//!
//! An [`Event`](event::Event) is published to a [`Backend`](backend::Backend), reaches every
//! subscription whose [`PatternSet`](pattern::PatternSet) matches it as a
//! [`Delivery`](delivery::Delivery), and ends in a [`Settlement`](delivery::Settlement).
//! Nothing here does I/O or spawns a task: backends store, move and lease; the bus decides.

pub mod admin;
pub mod advice;
pub mod backend;
pub mod capability;
pub mod clock;
pub mod cloudevents;
pub mod codec;
pub mod consumer;
pub mod data;
pub mod dead_letter;
pub mod delivery;
pub mod error;
pub mod event;
pub mod event_type;
pub mod history;
pub mod id;
pub mod pattern;
pub mod pattern_index;
pub mod position;
pub mod record;
pub mod retry;
pub mod state;
pub mod subscription;
pub mod timestamp;

pub use error::{Error, ErrorKind, Result};
