//! Retention: whole blocks from the log's head, once every subscription settled them and they were kept
//! for long enough after that.
//!
//! What is settled by all is noted from time to time with the hour, so that the age counts from the
//! settlement. Trimming first declares that the log begins later, in one commit with the ledgers that
//! close those blocks; the rows go afterwards, a bounded number in each transaction.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fanfare_core::Result;
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::block_of;
use rusqlite::{Connection, OptionalExtension};

use crate::admin::counts;
use crate::backend::Inner;
use crate::row::{integer, unsigned};
use crate::stream::Stream;
use crate::writer::job::Act;

/// How many rows one transaction removes, at most.
const ROWS: u64 = 2_048;
/// Into how many parts the retention time is divided: it is at most one part too long.
const MARKS: u32 = 100;

/// Looks after the stream until it is closed or dropped.
pub(crate) fn watch(inner: &Arc<Inner>) {
    let weak = Arc::downgrade(inner);
    let clock = inner.stream.config.clock.clone();
    let every = inner.stream.config.trim_every;
    tokio::spawn(async move {
        loop {
            clock.sleep(every).await;
            match weak.upgrade() {
                Some(inner) if inner.stream.check().is_ok() => {
                    if let Err(error) = trim_old(&inner).await {
                        tracing::warn!(%error, "old events are not trimmed");
                    }
                }
                _ => return,
            }
        }
    });
}

/// Notes what is settled by all now, and trims what was so long enough.
pub(crate) async fn trim_old(inner: &Inner) -> Result<()> {
    let _turn = inner.stream.trimming.lock().await;
    let stream = Arc::clone(&inner.stream);
    let declare = move |act: &mut Act<'_>| {
        let settled = settled_by_all(act.tx, &stream)?;
        let (now, keep) = (act.now, stream.config.retention);
        mark(act.tx, settled, now, keep.as_micros())?;
        let old = marked_before(act.tx, now - keep)?;
        begin_behind(act, &stream, old.min(settled)).map(Ok)
    };
    inner.queue.operate(false, declare).await?;
    loop {
        let stream = Arc::clone(&inner.stream);
        let run = move |act: &mut Act<'_>| remove_rows(act.tx, stream.trimmed()).map(Ok);
        if inner.queue.operate(false, run).await? == 0 {
            return Ok(());
        }
    }
}

/// Everything up to here is settled by every subscription.
pub(crate) fn settled_by_all(db: &Connection, stream: &Stream) -> rusqlite::Result<u64> {
    let head = stream.tail.head();
    let mut settled = head;
    for subscription in stream.subscriptions.all() {
        let live = &mut *subscription.live.lock();
        let lowest = live.cursor.lowest_unsettled();
        let frontier = live.cursor.frontier();
        // Nobody may have looked above the frontier because nothing there is theirs.
        let nothing_above =
            lowest == frontier + 1 && counts::matching(db, stream, live, frontier, head)? == 0;
        if !nothing_above {
            settled = settled.min(lowest - 1);
        }
    }
    Ok(settled)
}

/// Lets the log begin behind the last whole block up to `last`, if that is later than now; whether it
/// is.
pub(crate) fn begin_behind(
    act: &mut Act<'_>,
    stream: &Arc<Stream>,
    last: u64,
) -> rusqlite::Result<bool> {
    let block = block_of(last + 1);
    let trimmed = *fanfare_cursor::block_range(block).start();
    let trimmed = trimmed.saturating_sub(1);
    if trimmed <= stream.trimmed() {
        return Ok(false);
    }
    let at = integer(trimmed);
    act.tx
        .execute("UPDATE meta SET value = ?1 WHERE key = 'trimmed'", [at])?;
    act.tx
        .execute("DELETE FROM horizon WHERE pos <= ?1", [at])?;
    act.tx
        .execute("DELETE FROM census WHERE block < ?1", [integer(block)])?;
    for subscription in stream.subscriptions.all() {
        subscription.live.lock().cursor.close_below(block);
        act.touch(subscription);
    }
    let stream = Arc::clone(stream);
    act.after_commit(move || {
        stream.trimmed.store(trimmed, Ordering::Release);
        stream.census.forget_below(block);
    });
    Ok(true)
}

/// Removes some of the rows before the log's beginning; how many.
pub(crate) fn remove_rows(tx: &Connection, trimmed: u64) -> rusqlite::Result<u64> {
    let first: Option<i64> = tx
        .prepare_cached("SELECT pos FROM log WHERE pos <= ?1 ORDER BY pos LIMIT 1")?
        .query_row([integer(trimmed)], |row| row.get(0))
        .optional()?;
    let Some(first) = first.map(unsigned) else {
        return Ok(0);
    };
    let last = trimmed.min(first + ROWS - 1);
    tx.prepare_cached("DELETE FROM log WHERE pos BETWEEN ?1 AND ?2")?
        .execute((integer(first), integer(last)))
        .map(|rows| rows as u64)
}

fn mark(tx: &Connection, settled: u64, now: Timestamp, keep: u128) -> rusqlite::Result<()> {
    let every = i64::try_from(keep / u128::from(MARKS)).unwrap_or(i64::MAX);
    let last: Option<(i64, i64)> = tx
        .query_row(
            "SELECT time, pos FROM horizon ORDER BY time DESC LIMIT 1",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let now = now.as_micros();
    let due = last.is_none_or(|(time, position)| {
        now >= time.saturating_add(every) && integer(settled) > position
    });
    if due {
        let sql = "INSERT OR REPLACE INTO horizon (time, pos) VALUES (?1, ?2)";
        tx.execute(sql, (now, integer(settled)))?;
    }
    Ok(())
}

/// What was noted as settled by all at that time or earlier.
fn marked_before(tx: &Connection, time: Timestamp) -> rusqlite::Result<u64> {
    let sql = "SELECT max(pos) FROM horizon WHERE time <= ?1";
    let found: Option<i64> = tx.query_row(sql, [time.as_micros()], |row| row.get(0))?;
    Ok(found.map_or(0, unsigned))
}
