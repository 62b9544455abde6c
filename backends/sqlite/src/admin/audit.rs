//! The proof that nothing is missing: every event of the log is counted anew, block by block, against
//! what the subscriptions' ledgers say became of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use fanfare_core::admin::{Audited, Breach, Counts};
use fanfare_core::history::Recorded;
use fanfare_core::position::Position;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::{Error, Result};
use fanfare_cursor::{Interest, Tally, block_of, block_range};
use rusqlite::Connection;

use crate::backend::Inner;
use crate::census;
use crate::error;
use crate::row::{self, integer};
use crate::stream::Stream;
use crate::subscription::Subscription;

/// The most ids that a breach names.
const IDS: usize = 1_000;

/// A subscription as it stood at one moment between two commits.
struct Snapshot {
    name: SubscriptionName,
    interest: Interest,
    base: u64,
    frontier: u64,
    closed: Tally,
    open: Tally,
    /// Block, what became of its events, and how many are unsettled below the frontier.
    blocks: BTreeMap<u64, (Tally, u64)>,
    in_flight: u64,
    waiting: u64,
}

/// What the log itself has for one subscription.
#[derive(Default)]
struct Seen {
    /// Matching events up to the frontier, by block.
    below: BTreeMap<u64, u64>,
    above: u64,
}

/// Audits these subscriptions, all at the same moment.
pub(crate) async fn audit(inner: &Inner, all: Vec<Arc<Subscription>>) -> Result<Vec<Audited>> {
    // Trimming would move what is counted from one side to the other meanwhile.
    let _still = inner.stream.trimming.lock().await;
    let stream = Arc::clone(&inner.stream);
    let moment = inner.queue.operate(false, move |_| {
        let snapshots: Vec<Snapshot> = all.iter().map(|s| Snapshot::of(s)).collect();
        Ok(Ok((snapshots, stream.tail.head())))
    });
    let (snapshots, head) = moment.await?;
    let stream = Arc::clone(&inner.stream);
    let read = move |db: &Connection| {
        let seen = count(db, &stream, &snapshots, head)?;
        let compare = |(snapshot, seen)| compare(db, &stream, snapshot, &seen);
        snapshots.iter().zip(seen).map(compare).collect()
    };
    inner.readers.read(read).await
}

impl Snapshot {
    fn of(subscription: &Subscription) -> Self {
        let live = subscription.live.lock();
        let place = live.cursor.place();
        let blocks = live.cursor.blocks().into_iter();
        Self {
            name: subscription.name.clone(),
            interest: live.interest.clone(),
            base: place.base,
            frontier: place.frontier,
            closed: place.closed,
            open: live.cursor.tally(),
            blocks: blocks
                .map(|(block, tally, open)| (block, (tally, open)))
                .collect(),
            in_flight: live.cursor.in_flight(),
            waiting: live.cursor.waiting(),
        }
    }
}

/// One pass over the log for all of them.
fn count(db: &Connection, stream: &Stream, all: &[Snapshot], head: u64) -> Result<Vec<Seen>> {
    let mut seen: Vec<Seen> = all.iter().map(|_| Seen::default()).collect();
    let lowest = all.iter().map(|s| s.base).min().unwrap_or(head);
    let mut failed = None;
    census::each(db, lowest.max(stream.trimmed()), head, |position, kind| {
        let event_type = match stream.names.event_type(kind) {
            Ok(event_type) => event_type,
            Err(error) => {
                failed.get_or_insert(error);
                return;
            }
        };
        for (snapshot, seen) in all.iter().zip(&mut seen) {
            if position <= snapshot.base || !snapshot.interest.matches(position, &event_type) {
                continue;
            }
            if position <= snapshot.frontier {
                *seen.below.entry(block_of(position)).or_default() += 1;
            } else {
                seen.above += 1;
            }
        }
    })
    .map_err(error::sqlite)?;
    failed.map_or(Ok(seen), Err)
}

fn compare(db: &Connection, stream: &Stream, snapshot: &Snapshot, seen: &Seen) -> Result<Audited> {
    let (open, closed) = (snapshot.open, snapshot.closed);
    let kept = seen.below.values().sum::<u64>() + seen.above;
    let counts = Counts {
        published: kept + open.extra + closed.acknowledged + closed.dropped + closed.dead,
        acknowledged: open.acknowledged + closed.acknowledged,
        dropped: open.dropped + closed.dropped,
        dead: open.dead + closed.dead,
        in_flight: snapshot.in_flight,
        waiting: snapshot.waiting + seen.above,
    };
    let mut blocks: Vec<u64> = seen
        .below
        .keys()
        .chain(snapshot.blocks.keys())
        .copied()
        .collect();
    blocks.sort_unstable();
    blocks.dedup();
    let mut breaches = Vec::new();
    for block in blocks {
        let in_log = seen.below.get(&block).copied().unwrap_or(0);
        let (tally, unsettled) = snapshot.blocks.get(&block).copied().unwrap_or_default();
        let accounted = tally.acknowledged + tally.dropped + tally.dead + unsettled;
        let expected = in_log + tally.extra;
        if expected != accounted {
            let missing = expected.cast_signed() - accounted.cast_signed();
            breaches.push(breach(db, stream, snapshot, block, missing)?);
        }
    }
    Ok(Audited {
        name: snapshot.name.clone(),
        counts,
        breaches,
    })
}

fn breach(
    db: &Connection,
    stream: &Stream,
    snapshot: &Snapshot,
    block: u64,
    missing: i64,
) -> Result<Breach> {
    let range = block_range(block);
    let first = (*range.start()).max(snapshot.base + 1);
    let last = (*range.end()).min(snapshot.frontier);
    let matching = |recorded: &Recorded| {
        let event_type = recorded.event.event_type();
        snapshot
            .interest
            .matches(recorded.position.low(), event_type)
    };
    let events = events(db, stream, first, last)?;
    let ids = events
        .iter()
        .filter(|recorded| matching(recorded))
        .take(IDS);
    Ok(Breach {
        first: Position::from(first),
        last: Position::from(last),
        missing,
        ids: ids
            .map(|recorded| recorded.event.id().to_string())
            .collect(),
    })
}

fn events(db: &Connection, stream: &Stream, first: u64, last: u64) -> Result<Vec<Recorded>, Error> {
    let sql = format!(
        "SELECT {} FROM log WHERE pos BETWEEN ?1 AND ?2 ORDER BY pos",
        row::COLUMNS
    );
    let mut statement = db.prepare(&sql).map_err(error::sqlite)?;
    let mut rows = statement
        .query((integer(first), integer(last)))
        .map_err(error::sqlite)?;
    let mut events = Vec::new();
    while let Some(row) = rows.next().map_err(error::sqlite)? {
        events.push(row::recorded(row::read(row, &stream.names)?));
    }
    Ok(events)
}
