//! Every metric of the bus: its name, its labels and its counter, as plain atomics. Rendering
//! them for a scraper is in `telemetry/render.rs`, with the backend's own figures from
//! `telemetry/backend.rs`; nothing else in the bus names a metric.

mod backend;
mod instrument;
mod render;
mod tally;

pub use instrument::{BUCKET_MICROS, Counter, Gauge, Histogram};
pub(crate) use tally::Tally;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use fanfare_core::Result;
use fanfare_core::backend::Published;
use fanfare_core::delivery::Delivery;
use fanfare_core::event::Event;
use fanfare_core::event_type::EventType;
use fanfare_core::subscription::SubscriptionName;
use hashbrown::{Equivalent, HashMap};
use parking_lot::Mutex;
use serde::Serialize;

/// Publishing, over all sources and types.
#[derive(Debug, Default)]
pub struct Publishing {
    /// Events stored, repeats not counted.
    pub published: Counter,
    /// Events that were there already.
    pub duplicates: Counter,
    /// Publishes that failed or whose outcome is not known.
    pub failures: Counter,
    /// How long the backend took for a publish.
    pub duration: Histogram,
    /// Times that `try_publish` answered `Full`.
    pub queue_full: Counter,
    /// Queued events that could not be published.
    pub queue_failures: Counter,
}

/// One pair of source and event type.
#[derive(Debug, Default)]
pub struct Labelled {
    /// Events stored.
    pub published: Counter,
    /// Deliveries acknowledged or dropped.
    pub completed: Counter,
    /// Attempts that failed and will be repeated.
    pub retried: Counter,
    /// Deliveries given up.
    pub failed: Counter,
    /// How long handlers ran.
    pub duration: Histogram,
}

/// One subscription's part in this process.
#[derive(Debug, Default)]
pub struct Consuming {
    /// Deliveries received.
    pub received: Counter,
    /// Settled with ack.
    pub acknowledged: Counter,
    /// Settled with retry.
    pub retried: Counter,
    /// Settled as dead letters.
    pub dead: Counter,
    /// Dropped.
    pub dropped: Counter,
    /// Given back unstarted.
    pub released: Counter,
    /// Settlements refused because the lease was over or another settled before.
    pub refused: Counter,
    /// Leases that ended although we tried to extend them.
    pub leases_lost: Counter,
    /// Leases extended.
    pub extended: Counter,
    /// Handlers that panicked.
    pub panics: Counter,
    /// Handlers that ran out of time.
    pub timeouts: Counter,
    /// Events that no route matched.
    pub unhandled: Counter,
    /// Failed attempts to reach the backend.
    pub errors: Counter,
    /// Handlers that run now.
    pub running: Gauge,
    /// Deliveries held now: waiting to start, running, waiting to be settled.
    pub held: Gauge,
    /// How long handlers ran.
    pub duration: Histogram,
}

/// One forwarding's part in this process.
#[derive(Debug, Default)]
pub struct Forwarding {
    /// Events that the target has, the repeats included.
    pub forwarded: Counter,
    /// Events that the target had already.
    pub duplicates: Counter,
    /// Publishes that failed or whose outcome is not known; all of them are repeated.
    pub failures: Counter,
    /// Events that the target can never take.
    pub refused: Counter,
}

/// One subscription's numbers at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubscriptionStats {
    /// Which.
    pub name: SubscriptionName,
    /// Handlers that run now.
    pub running: u64,
    /// Deliveries held now.
    pub held: u64,
    /// Deliveries received.
    pub received: u64,
    /// Settled with ack.
    pub acknowledged: u64,
    /// Settled with retry.
    pub retried: u64,
    /// Settled as dead letters.
    pub dead: u64,
    /// Dropped.
    pub dropped: u64,
    /// Given back unstarted.
    pub released: u64,
    /// Settlements refused.
    pub refused: u64,
    /// Leases lost.
    pub leases_lost: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// Handlers that ran out of time.
    pub timeouts: u64,
    /// Events that no route matched.
    pub unhandled: u64,
}

impl SubscriptionStats {
    pub(crate) fn of(name: &SubscriptionName, consuming: &Consuming) -> Self {
        Self {
            name: name.clone(),
            running: consuming.running.get(),
            held: consuming.held.get(),
            received: consuming.received.get(),
            acknowledged: consuming.acknowledged.get(),
            retried: consuming.retried.get(),
            dead: consuming.dead.get(),
            dropped: consuming.dropped.get(),
            released: consuming.released.get(),
            refused: consuming.refused.get(),
            leases_lost: consuming.leases_lost.get(),
            panics: consuming.panics.get(),
            timeouts: consuming.timeouts.get(),
            unhandled: consuming.unhandled.get(),
        }
    }
}

/// The span in which a handler runs; what it logs carries these fields. At the debug level,
/// because writing an id for every event is more than handling most of them costs.
pub(crate) fn handler_span(subscription: &SubscriptionName, delivery: &Delivery) -> tracing::Span {
    tracing::debug_span!(
        "handle",
        %subscription,
        id = %delivery.event.id(),
        r#type = %delivery.event.event_type(),
        attempt = delivery.attempt,
    )
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Label {
    source: Arc<str>,
    event_type: EventType,
}

#[derive(Hash)]
struct LabelRef<'a> {
    source: &'a Arc<str>,
    event_type: &'a EventType,
}

impl Equivalent<Label> for LabelRef<'_> {
    fn equivalent(&self, key: &Label) -> bool {
        *self.source == key.source && *self.event_type == key.event_type
    }
}

/// Every counter of a bus.
#[derive(Debug)]
pub struct Telemetry {
    /// Publishing.
    pub publishing: Publishing,
    label_sets: usize,
    /// Read on every event, written once per pair: readers never wait.
    labelled: ArcSwap<HashMap<Label, Arc<Labelled>>>,
    /// Pairs above the limit.
    other: Arc<Labelled>,
    consuming: Mutex<Vec<(SubscriptionName, Arc<Consuming>)>>,
    forwarding: Mutex<Vec<(SubscriptionName, Arc<Forwarding>)>>,
}

impl Telemetry {
    /// Counters at zero, for at most `label_sets` pairs of source and event type.
    pub fn new(label_sets: usize) -> Self {
        Self {
            publishing: Publishing::default(),
            label_sets,
            labelled: ArcSwap::default(),
            other: Arc::default(),
            consuming: Mutex::default(),
            forwarding: Mutex::default(),
        }
    }

    /// The counters of an event's source and type.
    pub fn labelled(&self, event: &Event) -> Arc<Labelled> {
        let wanted = LabelRef {
            source: event.source(),
            event_type: event.event_type(),
        };
        if let Some(found) = self.labelled.load().get(&wanted) {
            return Arc::clone(found);
        }
        self.labelled.rcu(|known| {
            let mut known = HashMap::clone(known);
            if known.len() < self.label_sets {
                let label = Label {
                    source: Arc::clone(event.source()),
                    event_type: event.event_type().clone(),
                };
                known.entry(label).or_default();
            }
            known
        });
        let known = self.labelled.load();
        Arc::clone(known.get(&wanted).unwrap_or(&self.other))
    }

    /// The counters of a subscription; the same ones when it is started again.
    pub fn consuming(&self, name: &SubscriptionName) -> Arc<Consuming> {
        of_name(&self.consuming, name)
    }

    /// The counters of a forwarding; the same ones when it is started again.
    pub fn forwarding(&self, name: &SubscriptionName) -> Arc<Forwarding> {
        of_name(&self.forwarding, name)
    }

    /// Forgets a subscription that is gone for good.
    pub fn forget(&self, name: &SubscriptionName) {
        self.consuming.lock().retain(|(known, _)| known != name);
        self.forwarding.lock().retain(|(known, _)| known != name);
    }

    pub(crate) fn on_publish(
        &self,
        events: &[Event],
        answers: &Result<Vec<Result<Published>>>,
        took: Duration,
    ) {
        let all = u64::try_from(events.len()).unwrap_or(u64::MAX);
        self.publishing.duration.record_many(took, all);
        let Ok(answers) = answers else {
            self.publishing.failures.add(all);
            return;
        };
        let mut duplicates = 0;
        let mut failures = 0;
        let mut stored = PerLabel::default();
        for (event, answer) in events.iter().zip(answers) {
            match answer {
                Ok(published) if published.duplicate => duplicates += 1,
                Ok(_) => stored.add(self, event, |labelled, n| labelled.published.add(n)),
                Err(_) => failures += 1,
            }
        }
        stored.flush(|labelled, n| labelled.published.add(n));
        self.publishing.duplicates.add(duplicates);
        self.publishing.failures.add(failures);
        self.publishing.published.add(all - duplicates - failures);
    }
}

/// The counters kept under a name, at zero when it is new.
fn of_name<T: Default>(
    all: &Mutex<Vec<(SubscriptionName, Arc<T>)>>,
    name: &SubscriptionName,
) -> Arc<T> {
    let mut all = all.lock();
    if let Some((_, found)) = all.iter().find(|(known, _)| known == name) {
        return Arc::clone(found);
    }
    let new = Arc::<T>::default();
    all.push((name.clone(), Arc::clone(&new)));
    new
}

/// Adds up neighbours with the same source and type, so that a batch costs one look-up.
#[derive(Default)]
struct PerLabel {
    current: Option<(Event, u64)>,
    labelled: Option<Arc<Labelled>>,
}

impl PerLabel {
    fn add(&mut self, telemetry: &Telemetry, event: &Event, flush: impl Fn(&Labelled, u64)) {
        if let Some((first, n)) = &mut self.current
            && same_labels(first, event)
        {
            *n += 1;
            return;
        }
        self.flush(flush);
        self.labelled = Some(telemetry.labelled(event));
        self.current = Some((event.clone(), 1));
    }

    fn flush(&mut self, flush: impl Fn(&Labelled, u64)) {
        if let (Some((_, n)), Some(labelled)) = (self.current.take(), self.labelled.take()) {
            flush(&labelled, n);
        }
    }
}

/// Whether two events are counted together.
pub(crate) fn same_labels(a: &Event, b: &Event) -> bool {
    (Arc::ptr_eq(a.source(), b.source()) || a.source() == b.source())
        && a.event_type() == b.event_type()
}
