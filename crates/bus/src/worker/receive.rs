//! The receive loop: keeps the mailbox filled, within a window that grows while handlers keep up
//! and shrinks when they do not, so that a slow member does not hoard what others could handle.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fanfare_core::delivery::Delivery;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::position::Position;
use fanfare_core::subscription::{Start, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;
use futures::future::{Either, select};

use super::{Busy, Core, Held, Stage};
use crate::retry::Backoff;

/// A full window that empties faster than this was too small.
const QUICK: Duration = Duration::from_millis(25);
/// A full window that takes longer than this to empty is too large.
const SLOW: Duration = Duration::from_millis(500);

pub(super) async fn run(core: Arc<Core>) {
    let _busy = Busy(Arc::clone(&core));
    let mut window = Window::new(&core);
    let mut backoff = Backoff::new(core.limits.reconnect_max);
    let mut stop = pin!(core.reached(Stage::Draining));
    loop {
        let turn = pin!(turn(&core, &mut window));
        let Either::Right((received, _)) = select(stop.as_mut(), turn).await else {
            return;
        };
        let Err(error) = received else {
            backoff.reset();
            continue;
        };
        if !core.recover(error, &mut backoff).await {
            return;
        }
    }
}

/// Waits for room, then for deliveries.
async fn turn(core: &Core, window: &mut Window) -> Result<()> {
    let room = loop {
        if let Some(room) = window.room(&core.held.lock()) {
            break room;
        }
        core.room.notified().await;
    };
    window.adapt(core.clock.now());
    let max = room.min(core.limits.receive_batch);
    let deliveries = core
        .consumer()
        .receive(max, core.limits.receive_wait)
        .await?;
    core.succeed();
    window.received(&deliveries, room, core.clock.now());
    core.accept(deliveries);
    Ok(())
}

/// How many deliveries to hold.
struct Window {
    size: usize,
    min: usize,
    max: usize,
    /// The most bytes of data to hold.
    bytes: usize,
    /// Of one event, as far as seen.
    usual_bytes: usize,
    /// When it was last filled to the brim.
    filled: Option<Timestamp>,
}

impl Window {
    fn new(core: &Core) -> Self {
        let min = core.concurrency.saturating_mul(2).min(core.prefetch);
        Self {
            size: min,
            min,
            max: core.prefetch,
            bytes: core.limits.prefetch_bytes,
            usual_bytes: 0,
            filled: None,
        }
    }

    /// How many more deliveries to ask for; none while it is not worth a request.
    fn room(&self, held: &Held) -> Option<usize> {
        let by_count = self.size.saturating_sub(held.leases.len());
        let bytes = self.bytes.saturating_sub(held.bytes);
        let by_bytes = bytes.checked_div(self.usual_bytes).unwrap_or(by_count);
        let worth = by_count >= (self.size / 4).max(1) && bytes > 0;
        // One event may be larger than usual, or than the limit: one is always asked for.
        worth.then(|| by_count.min(by_bytes.max(1)))
    }

    /// Learns from what was received in answer to a request for `room`.
    fn received(&mut self, deliveries: &[Delivery], room: usize, now: Timestamp) {
        if let Some(usual) = bytes_of(deliveries).checked_div(deliveries.len()) {
            self.usual_bytes = usual.max(self.usual_bytes / 2);
        }
        if deliveries.len() >= room {
            self.filled = Some(now);
        }
    }

    fn adapt(&mut self, now: Timestamp) {
        let Some(filled) = self.filled.take() else {
            return;
        };
        let emptied = now.since(filled);
        if emptied < QUICK {
            self.size = (self.size * 2).min(self.max);
        } else if emptied > SLOW {
            self.size = (self.size / 2).max(self.min);
        }
    }
}

fn bytes_of(deliveries: &[Delivery]) -> usize {
    deliveries.iter().map(|d| d.event.bytes().len()).sum()
}

impl Core {
    fn accept(&self, deliveries: Vec<Delivery>) {
        if deliveries.is_empty() {
            return;
        }
        let n = u64::try_from(deliveries.len()).unwrap_or(u64::MAX);
        self.consuming.received.add(n);
        self.consuming.held.add(n);
        {
            let mut held = self.held.lock();
            held.leases.extend(deliveries.iter().map(|d| d.receipt));
            held.bytes += bytes_of(&deliveries);
            let newest = deliveries.iter().map(|d| d.position).max();
            held.newest = held.newest.max(newest.unwrap_or_default());
        }
        self.release(self.mailbox.push(deliveries));
    }

    fn succeed(&self) {
        let mut failing = self.failing.lock();
        if failing.take().is_some() {
            tracing::info!(subscription = %self.spec.name, "receiving again");
        }
    }

    /// After an error: waits, or recreates what is gone. False when there is no way on.
    async fn recover(&self, error: Error, backoff: &mut Backoff) -> bool {
        self.consuming.errors.add(1);
        let first = self.failing.lock().replace(error.to_string()).is_none();
        if first {
            tracing::warn!(subscription = %self.spec.name, %error, "cannot receive");
        }
        match error.kind() {
            ErrorKind::Closed => return false,
            ErrorKind::NotFound if self.spec.ephemeral => return false,
            ErrorKind::NotFound => {
                if let Err(error) = self.recreate().await {
                    tracing::warn!(subscription = %self.spec.name, %error, "cannot recreate");
                }
            }
            _ => {}
        }
        let pause = pin!(self.clock.sleep(backoff.next()));
        let stop = pin!(self.reached(Stage::Draining));
        matches!(select(pause, stop).await, Either::Left(_))
    }

    /// The subscription was deleted under us: creates it again from our last settled position.
    async fn recreate(&self) -> Result<()> {
        let after = {
            let held = self.held.lock();
            let oldest = held.leases.iter().map(|receipt| receipt.position).min();
            oldest.map_or(held.newest, |oldest| Position(oldest.0.saturating_sub(1)))
        };
        let spec = SubscriptionSpec {
            start: if after == Position::START {
                self.spec.start
            } else {
                Start::After(after)
            },
            ..self.spec.clone()
        };
        self.backend.admin().put(&spec).await?;
        let consumer = self
            .backend
            .consume(&spec.name, self.member.clone())
            .await?;
        tracing::warn!(subscription = %spec.name, %after, "was deleted under us; created again");
        *self.consumer.write() = consumer;
        // The old leases mean nothing to the new subscription.
        let mut held = self.held.lock();
        let leases = std::mem::take(&mut held.leases);
        held.lost.extend(leases.iter().copied());
        self.any_lost.store(true, Ordering::Release);
        held.leases = leases;
        Ok(())
    }
}
