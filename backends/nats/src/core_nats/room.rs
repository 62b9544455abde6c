//! What this process has of the stream: its subscriptions, its dead letters, and what it knows to have
//! missed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::event_type::EventType;
use fanfare_core::subscription::SubscriptionName;
use fanfare_cursor::queue::Bounds;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::config::CoreConfig;
use super::dead_letters::Letters;
use super::subscription::{Subscription, Took};
use crate::connect::{Failed, Wire};

#[derive(Debug)]
pub(super) struct Room {
    pub(super) wire: Arc<Wire>,
    pub(super) bounds: Bounds,
    pub(super) closed: watch::Sender<bool>,
    pub(super) subscriptions: Mutex<BTreeMap<SubscriptionName, Arc<Subscription>>>,
    pub(super) letters: Letters,
    /// How often something may have been missed.
    gaps: AtomicU64,
    /// How many events had no room in a queue.
    dropped: AtomicU64,
    /// Who waits until this process hears one of its marks.
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<()>>>,
    marks: AtomicU64,
}

impl Room {
    pub(super) fn new(config: &CoreConfig, wire: Arc<Wire>) -> Self {
        Self {
            wire,
            bounds: config.bounds(),
            closed: watch::Sender::new(false),
            subscriptions: Mutex::default(),
            letters: Letters::new(config.dead_letters),
            gaps: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            waiting: Mutex::default(),
            marks: AtomicU64::new(0),
        }
    }

    pub(super) fn check_open(&self) -> Result<()> {
        if *self.closed.borrow() {
            return Err(Error::new(ErrorKind::Closed, "the backend is closed"));
        }
        Ok(())
    }

    pub(super) fn subscription(&self, name: &SubscriptionName) -> Result<Arc<Subscription>> {
        let there = self.subscriptions.lock().get(name).cloned();
        there.ok_or_else(|| unknown(name))
    }

    pub(super) fn all(&self) -> Vec<Arc<Subscription>> {
        self.subscriptions.lock().values().cloned().collect()
    }

    pub(super) fn close(&self) {
        self.closed.send_replace(true);
        for subscription in std::mem::take(&mut *self.subscriptions.lock()).into_values() {
            subscription.end();
        }
    }

    /// Gaps, and events that were dropped.
    pub(super) fn missed(&self) -> (u64, u64) {
        let gaps = self.gaps.load(Ordering::Relaxed);
        (gaps, self.dropped.load(Ordering::Relaxed))
    }

    /// Everybody may have missed something.
    pub(super) fn tell_gap(&self, why: &'static str) {
        self.gaps.fetch_add(1, Ordering::Relaxed);
        let stream = &self.wire.config.stream;
        tracing::error!(stream, why, "events may be lost");
    }

    /// Waits until everything that was published before this call is in the queues.
    pub(super) async fn caught_up(&self) -> Result<()> {
        let wire = &self.wire;
        let until = wire.patience();
        if !wire.connected(until).await {
            let message = "there is no connection to nats";
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        let number = self.marks.fetch_add(1, Ordering::Relaxed);
        let (heard, hearing) = oneshot::channel();
        self.waiting.lock().insert(number, heard);
        let mut line = wire.line();
        let mark = wire.names.mark(wire.who);
        let number_bytes = Bytes::copy_from_slice(&number.to_be_bytes());
        // Where the client is gone, nothing is heard.
        let _ = wire.client.publish(mark.clone(), number_bytes).await;
        let heard = tokio::select! {
            biased;
            heard = hearing => heard.map_err(|_| Failed::Broken),
            failed = line.fails(&mark) => Err(failed),
            () = wire.config.clock.sleep_until(until) => Err(Failed::Silent),
        };
        self.waiting.lock().remove(&number);
        heard.map_err(Failed::harmless)
    }

    /// A mark of this process came, and so everything from before the marks before it.
    pub(super) fn hear_mark(&self, payload: &[u8]) {
        let Some(number) = payload.first_chunk() else {
            return;
        };
        let mut waiting = self.waiting.lock();
        let later = waiting.split_off(&u64::from_be_bytes(*number).saturating_add(1));
        for heard in std::mem::replace(&mut *waiting, later).into_values() {
            // Nobody may wait any more.
            let _ = heard.send(());
        }
    }

    /// Something came for who wants this type.
    pub(super) fn take(&self, event_type: &EventType, payload: &Bytes) {
        let event = decode(event_type, payload);
        let now = self.wire.config.clock.now();
        for subscription in self.all() {
            match subscription.take(event_type, &event, payload, now) {
                Took::It | Took::Nothing => {}
                Took::Letter => self.letters.collect(&subscription, self),
                Took::Dropped { first } => self.drop_one(&subscription, first),
            }
        }
    }

    fn drop_one(&self, subscription: &Subscription, first: bool) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        if first {
            self.gaps.fetch_add(1, Ordering::Relaxed);
            let name = &subscription.name;
            tracing::error!(subscription = %name, "the queue is full: events are lost until it has room");
        }
    }
}

/// What stands in a message: a frame of one event, of the type that its subject says.
fn decode(event_type: &EventType, payload: &Bytes) -> Result<Event> {
    let mut events = fanfare_fleet::decode(payload.clone())?;
    let event = events.pop().filter(|_| events.is_empty());
    let event = event.ok_or_else(|| Error::invalid("", "a message holds one event"))?;
    if event.event_type() != event_type {
        let detail = format!(
            "`{}` came on the subject of `{event_type}`",
            event.event_type()
        );
        return Err(Error::invalid("/type", detail));
    }
    Ok(event)
}

pub(super) fn unknown(name: &SubscriptionName) -> Error {
    let text = format!("this process has no subscription `{name}`");
    Error::new(ErrorKind::NotFound, text)
}
