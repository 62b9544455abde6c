//! The Fanfare runtime: publish, subscribe, route, retry, dead-letter, drain.
//!
//! A [`Bus`] is a cheap handle on one stream of one [`Backend`](fanfare_core::backend::Backend).
//! Everything that is the same for every backend lives here and only here: validation, context
//! propagation, handler dispatch, retry decisions, heartbeats, batched settlement and the drain.
//! Backends store, move and lease. Nothing in this crate knows which backend it runs on.

pub mod bus;
pub mod context;
pub mod dead_letter;
pub mod default_bus;
pub mod emit;
pub mod event;
pub mod extract;
pub mod handler;
pub mod options;
pub mod publish;
pub mod retry;
pub mod router;
pub mod subscribe;
pub mod telemetry;
pub mod wait;

mod dispatch;
mod lifecycle;
mod mailbox;
mod queue;
mod worker;

pub use bus::{Bus, BusBuilder, Health, ShutdownReport, Stats};
pub use context::Context;
pub use emit::Emitted;
pub use event::{DomainEvent, IntoEvent};
pub use extract::{Attempt, Data, Metadata, Raw, State};
pub use fanfare_macros as macros;
pub use handler::{Handler, Outcome};
pub use options::{Limits, RedriveOptions, Unhandled};
pub use router::Router;
pub use subscribe::{IntoPatterns, SubscribeBuilder, Subscription};
pub use wait::{Waited, WaitedFor};
