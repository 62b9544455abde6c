//! A bus on memory with a manual clock, and handlers that report what they saw.

use std::sync::Arc;
use std::time::Duration;

use fanfare_bus::Bus;
use fanfare_core::clock::Clock;
use fanfare_core::data::Data;
use fanfare_core::event::{Event, EventBuilder};
use fanfare_core::timestamp::Timestamp;
use fanfare_memory::{MemoryBackend, MemoryConfig};
use tokio::sync::mpsc;

pub(crate) fn clock() -> Clock {
    Clock::manual(Timestamp::from_millis(1_700_000_000_000))
}

pub(crate) fn backend(clock: &Clock) -> Arc<MemoryBackend> {
    MemoryBackend::open(MemoryConfig {
        clock: clock.clone(),
        ..MemoryConfig::default()
    })
}

/// A bus on a fresh backend, and its clock.
pub(crate) fn bus() -> (Bus, Clock) {
    let clock = clock();
    let bus = Bus::builder(backend(&clock)).clock(clock.clone()).build();
    (bus.unwrap(), clock)
}

pub(crate) fn event(event_type: &str) -> EventBuilder {
    Event::builder(event_type.parse().unwrap()).data(Data::json("1"))
}

/// What handlers report, in order; every wait ends in at most ten seconds of real time, so that a
/// broken promise fails instead of hanging.
pub(crate) struct Seen<T>(mpsc::Receiver<T>);

pub(crate) fn seen<T>() -> (mpsc::Sender<T>, Seen<T>) {
    let (sender, receiver) = mpsc::channel(10_000);
    (sender, Seen(receiver))
}

impl<T> Seen<T> {
    pub(crate) async fn next(&mut self) -> T {
        within(self.0.recv()).await.expect("a sender")
    }

    pub(crate) async fn take(&mut self, n: usize) -> Vec<T> {
        let mut all = Vec::new();
        for _ in 0..n {
            all.push(self.next().await);
        }
        all
    }

    pub(crate) fn is_empty(&mut self) -> bool {
        self.0.is_empty()
    }
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("within ten seconds")
}

/// Lets every task do what it can without time passing.
pub(crate) async fn settle_down() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// Waits until `condition` holds, while other tasks run.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
