//! Domain events that never get lost: the crate that applications depend on.
//!
//! [`connect`] opens a bus on a backend chosen by URL. Everything else is re-exported from the
//! crates below: the words and the contract from [`core`], the runtime from [`bus`], publishing within
//! an application's own transactions from [`postgres`]. Nothing is implemented here but configuration
//! files, the list of backends and, with the feature `testing`, a bus for tests.

use std::sync::Arc;

use fanfare_core::Result;
use fanfare_core::backend::Backend;

pub mod address;
pub mod config;
pub mod prelude;
pub mod registry;
#[cfg(feature = "testing")]
pub mod testing;

pub use fanfare_bus as bus;
pub use fanfare_bus::Bus;
pub use fanfare_core as core;
pub use fanfare_macros::Event;
pub use fanfare_postgres as postgres;

/// Opens a bus with the default options on the backend at `url`: `sqlite:DIR` or `memory:`, with
/// `?stream=NAME`. For other options give [`backend`]'s answer to
/// [`Bus::builder`](fanfare_bus::Bus::builder).
pub async fn connect(url: &str) -> Result<Bus> {
    Bus::builder(backend(url).await?).build()
}

/// Opens the backend at `url`.
pub async fn backend(url: &str) -> Result<Arc<dyn Backend>> {
    registry::open(address::Address::parse(url)?).await
}

/// Opens PostgreSQL at `url`, as [`backend`] does, for an application that also publishes within its
/// own transactions: by [`publish_in`](postgres::PostgresBackend::publish_in), or with the feature
/// `sqlx` by `publish_in_sqlx`.
pub async fn outbox(url: &str) -> Result<Arc<postgres::PostgresBackend>> {
    registry::open_postgres(address::Address::parse(url)?).await
}

/// The code of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// The code of the guide compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide/getting-started.md")]
struct GettingStarted;

/// The code of the guide compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide/postgres.md")]
struct Postgres;

/// The code of the guide compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide/retries-and-dead-letters.md")]
struct RetriesAndDeadLetters;

/// The code of the guide compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide/publishing-from-a-transaction.md")]
struct PublishingFromATransaction;

/// The code of the guide compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide/idempotent-handlers.md")]
struct IdempotentHandlers;

/// The code of the guide compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide/testing.md")]
struct Testing;
