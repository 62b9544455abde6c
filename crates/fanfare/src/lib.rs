//! Domain events that never get lost: the crate that applications depend on.
//!
//! [`connect`] opens a bus on a backend chosen by URL. Everything else is re-exported from the
//! crates below: the words and the contract from [`core`], the runtime from [`bus`], publishing within
//! an application's own transactions from [`postgres`]. Nothing is implemented here but configuration
//! files, the list of backends and, with the feature `testing`, a bus for tests.

use std::sync::Arc;
use std::time::Duration;

use fanfare_core::Result;
use fanfare_core::backend::Backend;
use fanfare_core::clock::Clock;
use fanfare_core::error::Status;

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

/// The longest pause between two attempts to reach a server.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

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

/// Opens what is at a server that may not be up yet: as long as `open` fails with an error that may
/// pass, it is called again, with pauses from 100 ms doubling to 30 s. The first such error is logged
/// as a warning. Every other error is answered.
///
/// ```no_run
/// # async fn example() -> fanfare::core::Result<()> {
/// let bus = fanfare::when_reachable(|| fanfare::connect("redis://localhost/")).await?;
/// # Ok(())
/// # }
/// ```
pub async fn when_reachable<T, F>(mut open: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let clock = Clock::system();
    let mut pause = Duration::from_millis(100);
    let mut waited = false;
    loop {
        match open().await {
            Err(error) if error.status() != Status::Permanent => {
                if !waited {
                    tracing::warn!(%error, "waiting for a server that cannot be reached");
                }
                waited = true;
                clock.sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            opened => {
                if waited && opened.is_ok() {
                    tracing::info!("the server can be reached now");
                }
                return opened;
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use fanfare_core::{Error, ErrorKind};

    use super::*;

    #[tokio::test]
    async fn only_what_may_pass_is_waited_for() {
        let mut kinds = [
            ErrorKind::Unavailable,
            ErrorKind::Unknown,
            ErrorKind::Unauthorized,
        ]
        .into_iter();
        let opened = when_reachable(|| {
            let kind = kinds.next().unwrap();
            async move { Err::<(), _>(Error::new(kind, "no")) }
        });
        assert_eq!(opened.await.unwrap_err().kind(), ErrorKind::Unauthorized);
        assert_eq!(kinds.next(), None);
    }
}
