//! Where every delivery of a subscription is: counted from the log on one side, from what was counted in
//! the record as it was settled on the other.

use std::collections::BTreeMap;
use std::sync::Arc;

use fanfare_core::admin::{Audited, Breach, Counts, SubscriptionInfo};
use fanfare_core::error::Result;
use fanfare_core::position::Position;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::changes::Place;
use fanfare_cursor::{Tally, block_of, block_range};
use fanfare_fleet::{Stored, unknown};

use crate::backend::NatsBackend;
use crate::desk::Desk;
use crate::log::PAGE;
use crate::record::Record;
use crate::row::Row;

/// The most ids that a breach names.
const MAX_IDS: usize = 1_000;

/// One subscription at one moment.
pub(crate) struct Snapshot {
    pub(crate) stored: Stored,
    pub(crate) place: Place,
    pub(crate) lowest: u64,
    /// Events up to here are not to be found in the log.
    pub(crate) counted_after: u64,
    pub(crate) trimmed: u64,
    tally: Tally,
    blocks: Vec<(u64, Tally, u64)>,
    removed: BTreeMap<u64, u64>,
    in_flight: u64,
    waiting: u64,
    dead: u64,
}

impl Snapshot {
    fn of(record: &Record) -> Self {
        let cursor = &record.cursor;
        let place = cursor.place();
        let current = record.dead.keys().filter(|key| key.1 == place.generation);
        Self {
            stored: record.stored(),
            place,
            lowest: cursor.lowest_unsettled(),
            counted_after: record.counted_after(),
            trimmed: record.trimmed,
            tally: cursor.tally(),
            blocks: cursor.blocks(),
            removed: record.removed.clone(),
            in_flight: cursor.in_flight(),
            waiting: cursor.waiting(),
            dead: current.count() as u64,
        }
    }

    pub(crate) fn matches(&self, row: &Row) -> bool {
        row.position > self.place.base && row.matches(&self.stored)
    }

    /// With so many matching events in the log, as far as this subscription counts it.
    fn proven(&self, kept: u64, above: u64) -> Counts {
        let removed: u64 = self.removed.values().sum();
        self.counts(kept + removed + self.tally.extra, above)
    }

    /// Without a look at the log below the frontier: what is there is what became of it.
    fn accounted(&self, above: u64) -> Counts {
        let of_block = |(_, tally, open): &(u64, Tally, u64)| {
            tally.acknowledged + tally.dropped + tally.dead + open
        };
        let below: u64 = self.blocks.iter().map(of_block).sum();
        self.counts(below + above, above)
    }

    fn counts(&self, published: u64, above: u64) -> Counts {
        let (tally, closed) = (self.tally, self.place.closed);
        let closed_all = closed.acknowledged + closed.dropped + closed.dead;
        Counts {
            published: published + closed_all,
            acknowledged: tally.acknowledged + closed.acknowledged,
            dropped: tally.dropped + closed.dropped,
            dead: self.dead,
            in_flight: self.in_flight,
            waiting: self.waiting + above,
        }
    }
}

/// What the log says of one subscription.
#[derive(Default)]
struct Counted {
    kept: u64,
    above: u64,
    /// Matching events below the frontier.
    blocks: BTreeMap<u64, u64>,
}

impl Desk {
    pub(crate) async fn snapshot(&self, name: &SubscriptionName) -> Result<Option<Snapshot>> {
        self.change(name, |entry, _| entry.record.as_ref().map(Snapshot::of))
            .await
    }
}

impl NatsBackend {
    pub(crate) async fn known(&self, name: &SubscriptionName) -> Result<Snapshot> {
        let snapshot = self.desk.snapshot(name).await?;
        snapshot.ok_or_else(|| unknown(name))
    }

    /// Every subscription that is not ephemeral, by name.
    pub(crate) async fn durable(&self) -> Result<Vec<Snapshot>> {
        let mut all = Vec::new();
        for name in self.desk.names().await? {
            all.extend(self.desk.snapshot(&name).await?);
        }
        Ok(all)
    }

    /// Visits every row after `from` and up to `to`, until told to stop.
    pub(crate) async fn scan(
        &self,
        from: u64,
        to: u64,
        mut visit: impl FnMut(&Arc<Row>) -> bool,
    ) -> Result<()> {
        let mut at = from;
        loop {
            let rows = self.log.after(at, PAGE).await?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            at = last.position;
            for row in &rows {
                if row.position > to || !visit(row) {
                    return Ok(());
                }
            }
        }
    }

    async fn counted(&self, snapshot: &Snapshot) -> Result<Counted> {
        let head = self.log.caught_up().await?;
        let mut counted = Counted::default();
        self.scan(snapshot.counted_after, head, |row| {
            if snapshot.matches(row) {
                counted.kept += 1;
                if row.position > snapshot.place.frontier {
                    counted.above += 1;
                } else {
                    *counted.blocks.entry(block_of(row.position)).or_default() += 1;
                }
            }
            true
        })
        .await?;
        Ok(counted)
    }

    /// How many wait above the frontier, and when the oldest of them was recorded.
    async fn above(&self, snapshot: &Snapshot) -> Result<(u64, Option<Timestamp>)> {
        let head = self.log.caught_up().await?;
        let (mut above, mut oldest) = (0, None);
        self.scan(snapshot.place.frontier, head, |row| {
            if snapshot.matches(row) {
                above += 1;
                oldest.get_or_insert(row.recorded);
            }
            true
        })
        .await?;
        Ok((above, oldest))
    }

    pub(crate) async fn counts(&self, snapshot: &Snapshot) -> Result<Counts> {
        let (above, _) = self.above(snapshot).await?;
        Ok(snapshot.accounted(above))
    }

    pub(crate) async fn info(&self, snapshot: Snapshot) -> Result<SubscriptionInfo> {
        let (above, mut oldest) = self.above(&snapshot).await?;
        if snapshot.lowest <= snapshot.place.frontier {
            let found = self.log.find(&[snapshot.lowest]).await?;
            oldest = found.values().next().map(|row| row.recorded).or(oldest);
        }
        Ok(SubscriptionInfo {
            counts: snapshot.accounted(above),
            oldest_unsettled: oldest,
            frontier: Position(snapshot.place.frontier.into()),
            created: snapshot.stored.created,
            paused: snapshot.stored.paused,
            spec: snapshot.stored.spec,
        })
    }

    pub(crate) async fn audited(&self, snapshot: &Snapshot) -> Result<Audited> {
        let counted = self.counted(snapshot).await?;
        let mut balance: BTreeMap<u64, i64> = BTreeMap::new();
        let mut add = |block: u64, n: u64, sign: i64| {
            *balance.entry(block).or_default() += sign * i64::try_from(n).unwrap_or(i64::MAX);
        };
        for (block, n) in counted.blocks.iter().chain(&snapshot.removed) {
            add(*block, *n, 1);
        }
        for (block, tally, open) in &snapshot.blocks {
            add(*block, tally.extra, 1);
            add(
                *block,
                tally.acknowledged + tally.dropped + tally.dead + open,
                -1,
            );
        }
        let mut breaches = Vec::new();
        for (block, missing) in balance.into_iter().filter(|(_, missing)| *missing != 0) {
            breaches.push(self.breach(snapshot, block, missing).await?);
        }
        Ok(Audited {
            name: snapshot.stored.spec.name.clone(),
            counts: snapshot.proven(counted.kept, counted.above),
            breaches,
        })
    }

    async fn breach(&self, snapshot: &Snapshot, block: u64, missing: i64) -> Result<Breach> {
        let range = block_range(block);
        let from = range.start().saturating_sub(1).max(snapshot.counted_after);
        let mut ids = Vec::new();
        self.scan(from, (*range.end()).min(snapshot.place.frontier), |row| {
            if let Some(event) = row.slot.event().filter(|_| snapshot.matches(row)) {
                ids.push(event.id().to_string());
            }
            ids.len() < MAX_IDS
        })
        .await?;
        Ok(Breach {
            first: Position((*range.start()).into()),
            last: Position((*range.end()).into()),
            missing,
            ids,
        })
    }
}
