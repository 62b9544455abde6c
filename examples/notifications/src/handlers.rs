//! Who does what about an event. Each handler is a subscription with its own retries and dead
//! letters, so that one that fails holds up no other; and it has a name, so that on a durable
//! backend its events wait for it.

pub mod notification;
pub mod projection;
pub mod tags;

use std::time::Duration;

use fanfare::bus::IntoPatterns;
use fanfare::prelude::*;

use crate::{Result, Store};

/// How long another process waits before it takes over from one that died. Handlers that take
/// longer keep what they have.
const LEASE: Duration = Duration::from_secs(5);
/// Chats that a handler works on at once, in one process.
const CONCURRENCY: usize = 8;

/// Three attempts in total, 100 ms apart, then 200 ms.
pub fn retry() -> RetryPolicy {
    RetryPolicy {
        max_attempts: 3,
        initial: Duration::from_millis(100),
        factor: 2.0,
        max: Duration::from_secs(5),
        jitter: false,
    }
}

/// Starts all handlers.
pub async fn subscribe(bus: &Bus, store: &Store) -> Result {
    let everything = "*";
    handler(bus, store, "notification", everything)
        .router(notification::routes())
        .await?;
    handler(bus, store, "projection", everything)
        .router(projection::routes())
        .await?;
    handler(bus, store, "tags", "MessagePosted")
        .handle(tags::message_posted)
        .await?;
    Ok(())
}

fn handler(
    bus: &Bus,
    store: &Store,
    name: &str,
    patterns: impl IntoPatterns,
) -> fanfare::bus::SubscribeBuilder {
    bus.subscribe(name, patterns)
        .ordered()
        .retry(retry())
        .lease(LEASE)
        .concurrency(CONCURRENCY)
        .state(store.clone())
}
