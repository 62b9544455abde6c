//! How many events match an interest between two positions: whole blocks from the census, the rest from
//! the tail or the log.

use fanfare_core::admin::Counts;
use fanfare_cursor::{block_of, block_range};
use rusqlite::Connection;

use crate::census;
use crate::row::{integer, unsigned};
use crate::stream::Stream;
use crate::subscription::{Live, Subscription};

/// Both sides of a subscription's balance. Call it on the writer, where nothing is appended meanwhile.
pub(crate) fn of(
    db: &Connection,
    stream: &Stream,
    subscription: &Subscription,
) -> rusqlite::Result<Counts> {
    let head = stream.tail.head();
    let live = &mut *subscription.live.lock();
    let place = live.cursor.place();
    let open = live.cursor.tally();
    let kept = kept(db, stream, live, place.base.max(stream.trimmed()), head)?;
    let above = matching(db, stream, live, place.frontier, head)?;
    let closed = place.closed;
    Ok(Counts {
        published: kept + open.extra + closed.acknowledged + closed.dropped + closed.dead,
        acknowledged: open.acknowledged + closed.acknowledged,
        dropped: open.dropped + closed.dropped,
        dead: open.dead + closed.dead,
        in_flight: live.cursor.in_flight(),
        waiting: live.cursor.waiting() + above,
    })
}

/// Like [`matching`], but blocks that are complete are counted only once. What matched keeps matching:
/// other patterns hold for later events only.
fn kept(
    db: &Connection,
    stream: &Stream,
    live: &mut Live,
    base: u64,
    head: u64,
) -> rusqlite::Result<u64> {
    let (from, mut total) = match live.counted {
        Some((counted_from, upto, total)) if counted_from == base => (upto, total),
        _ => (base, 0),
    };
    let complete = block_range(block_of(head)).start().saturating_sub(1);
    if complete > from {
        total += matching(db, stream, live, from, complete)?;
        live.counted = Some((base, complete, total));
        return Ok(total + matching(db, stream, live, complete, head)?);
    }
    Ok(total + matching(db, stream, live, from, head)?)
}

/// How many events above `after` and up to `last`, at most the head, are the subscription's.
pub(crate) fn matching(
    db: &Connection,
    stream: &Stream,
    live: &mut Live,
    after: u64,
    last: u64,
) -> rusqlite::Result<u64> {
    let mut total = 0;
    let mut after = after;
    while after < last {
        let block = block_of(after + 1);
        let range = block_range(block);
        let whole = after < (*range.start()).max(1);
        let end = (*range.end()).min(last);
        let to_its_end = end == *range.end() || end == stream.tail.head();
        if whole && to_its_end && one_interest(live, *range.start()) {
            total += in_block(stream, live, block);
        } else {
            total += one_by_one(db, stream, live, after, end)?;
        }
        after = end;
    }
    Ok(total)
}

/// When the oldest unsettled event was recorded, in microseconds. Above the frontier a bounded number of
/// events is looked at.
pub(crate) fn oldest_unsettled(
    db: &Connection,
    stream: &Stream,
    live: &mut Live,
) -> rusqlite::Result<Option<i64>> {
    let lowest = live.cursor.lowest_unsettled();
    let claimed = lowest <= live.cursor.frontier();
    let mut statement = db.prepare_cached(
        "SELECT pos, type, time FROM log WHERE pos >= ?1 ORDER BY pos LIMIT 1000",
    )?;
    let mut rows = statement.query([integer(lowest)])?;
    while let Some(row) = rows.next()? {
        let (position, kind, time) = (unsigned(row.get(0)?), row.get(1)?, row.get(2)?);
        let event_type = stream.names.event_type(kind);
        if claimed || event_type.is_ok_and(|t| live.matches(position, kind, &t)) {
            return Ok(Some(time));
        }
    }
    Ok(None)
}

/// Whether a single pattern set holds from `position` on.
fn one_interest(live: &Live, position: u64) -> bool {
    let since = live.interest.parts().last().map_or(0, |(since, _)| *since);
    position >= since
}

fn in_block(stream: &Stream, live: &mut Live, block: u64) -> u64 {
    let mut total = 0;
    for (_, kinds) in stream.census.between(block, block) {
        for (kind, events) in kinds {
            let event_type = stream.names.event_type(kind);
            if event_type.is_ok_and(|t| live.matches(u64::MAX, kind, &t)) {
                total += events;
            }
        }
    }
    total
}

fn one_by_one(
    db: &Connection,
    stream: &Stream,
    live: &mut Live,
    after: u64,
    last: u64,
) -> rusqlite::Result<u64> {
    let in_memory = stream.tail.above(after, |entries| {
        let upto = entries.take_while(|e| e.position <= last);
        upto.filter(|e| live.matches(e.position, e.kind, e.event.event_type()))
            .count() as u64
    });
    if let Some(total) = in_memory {
        return Ok(total);
    }
    let mut total = 0;
    census::each(db, after, last, |position, kind| {
        let event_type = stream.names.event_type(kind);
        if event_type.is_ok_and(|t| live.matches(position, kind, &t)) {
            total += 1;
        }
    })?;
    Ok(total)
}
