//! The Fanfare runtime: publish, subscribe, route, retry, dead-letter, drain.
//!
//! A [`Bus`] is a cheap handle on one stream of one [`Backend`](fanfare_core::backend::Backend).
//! Everything that is the same for every backend lives here and only here: validation, context
//! propagation, handler dispatch, retry decisions, heartbeats, batched settlement and the drain.
//! Backends store, move and lease. Nothing in this crate knows which backend it runs on.
//!
//! ```
//! use fanfare_bus::{Attempt, Bus, Data, DomainEvent, State};
//! use fanfare_core::retry::RetryPolicy;
//! # use std::time::Duration;
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct OrderPlaced {
//!     id: String,
//!     total: u32,
//! }
//!
//! impl DomainEvent for OrderPlaced {
//!     const TYPE: &'static str = "orders.placed";
//!     fn key(&self) -> Option<String> {
//!         Some(self.id.clone())
//!     }
//! }
//!
//! #[derive(Clone)]
//! struct Rate(u32);
//!
//! async fn bill(Data(order): Data<OrderPlaced>, State(rate): State<Rate>, Attempt(n): Attempt) -> Result<(), String> {
//!     println!("attempt {n}: {} pays {}", order.id, order.total * rate.0);
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> fanfare_core::Result<()> {
//! # let backend = fanfare_memory::MemoryBackend::open(Default::default());
//! let bus = Bus::builder(backend).source("/shop").build()?;
//! bus.subscribe("billing", "orders.*")
//!     .retry(RetryPolicy::exponential(5))
//!     .concurrency(32)
//!     .state(Rate(2))
//!     .handle(bill)
//!     .await?;
//! bus.publish(OrderPlaced { id: "o-1".into(), total: 7 }).await?;
//! bus.shutdown(Duration::from_secs(30)).await?;
//! # Ok(())
//! # }
//! ```

pub mod bus;
pub mod context;
pub mod dead_letter;
pub mod default_bus;
pub mod emit;
pub mod event;
pub mod extract;
pub mod forward;
pub mod handler;
pub mod journal;
pub mod middleware;
pub mod options;
pub mod publish;
pub mod retry;
pub mod router;
pub mod subscribe;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
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
pub use forward::ForwardBuilder;
pub use handler::{Handler, Outcome};
pub use journal::Journal;
pub use options::{Limits, RedriveOptions, Unhandled};
pub use router::Router;
pub use subscribe::{IntoPatterns, SubscribeBuilder, Subscription};
pub use wait::{Waited, WaitedFor};
