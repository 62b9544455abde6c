//! Adding up settlements on the stack before they reach the shared counters: a batch costs a few
//! atomic operations instead of a few per event.

use std::sync::Arc;
use std::time::Duration;

use fanfare_core::delivery::Settlement;
use fanfare_core::event::Event;

use super::instrument::{bucket_of, nanos};
use super::{BUCKET_MICROS, Consuming, Labelled, Telemetry, same_labels};

/// Settlements of one subscription that are not counted yet; all of events with the same labels.
pub(crate) struct Tally<'a> {
    telemetry: &'a Telemetry,
    consuming: &'a Consuming,
    /// One of the events, and where they are counted.
    labels: Option<(Event, Arc<Labelled>)>,
    sums: Sums,
}

#[derive(Default)]
struct Sums {
    acknowledged: u64,
    retried: u64,
    dead: u64,
    dropped: u64,
    released: u64,
    buckets: [u64; BUCKET_MICROS.len() + 1],
    nanos: u64,
}

impl<'a> Tally<'a> {
    pub(crate) fn new(telemetry: &'a Telemetry, consuming: &'a Consuming) -> Self {
        Self {
            telemetry,
            consuming,
            labels: None,
            sums: Sums::default(),
        }
    }

    /// Counts a settlement; `took` is none when no handler ran.
    pub(crate) fn add(&mut self, event: Event, settlement: &Settlement, took: Option<Duration>) {
        let known = self.labels.as_ref();
        if !known.is_some_and(|(first, _)| same_labels(first, &event)) {
            self.flush();
            let labelled = self.telemetry.labelled(&event);
            self.labels = Some((event, labelled));
        }
        let sums = &mut self.sums;
        match settlement {
            Settlement::Ack => sums.acknowledged += 1,
            Settlement::Retry { .. } => sums.retried += 1,
            Settlement::DeadLetter { .. } => sums.dead += 1,
            Settlement::Drop => sums.dropped += 1,
            Settlement::Release => sums.released += 1,
        }
        if let Some(took) = took {
            let nanos = nanos(took);
            sums.nanos = sums.nanos.saturating_add(nanos);
            if let Some(bucket) = sums.buckets.get_mut(bucket_of(nanos)) {
                *bucket += 1;
            }
        }
    }

    fn flush(&mut self) {
        let sums = std::mem::take(&mut self.sums);
        let Some((_, labelled)) = self.labels.take() else {
            return;
        };
        labelled.completed.add(sums.acknowledged + sums.dropped);
        labelled.retried.add(sums.retried);
        labelled.failed.add(sums.dead);
        labelled.duration.merge(&sums.buckets, sums.nanos);
        self.consuming.acknowledged.add(sums.acknowledged);
        self.consuming.retried.add(sums.retried);
        self.consuming.dead.add(sums.dead);
        self.consuming.dropped.add(sums.dropped);
        self.consuming.released.add(sums.released);
        self.consuming.duration.merge(&sums.buckets, sums.nanos);
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}
