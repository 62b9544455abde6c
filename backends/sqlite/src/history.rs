//! Past events: pages by filter, one by id, its deliveries, and waiting at the log's end. A page looks
//! at a bounded number of rows and may go on with fewer events than asked for.

use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::history::{
    DeliveryInfo, DeliveryState, EventPage, EventQuery, EventStatus, History, Recorded,
};
use fanfare_core::id::EventId;
use fanfare_core::position::Position;
use fanfare_core::timestamp::Timestamp;
use fanfare_core::{Error, ErrorKind, Result};
use fanfare_cursor::Standing;
use rusqlite::{Connection, OptionalExtension};

use crate::backend::SqliteBackend;
use crate::error;
use crate::row::{self, id_column, integer, unsigned};
use crate::stream::Stream;
use crate::tail::Entry;

/// The most events of a page.
const PAGE: usize = 1_000;
/// How many positions one page looks at, at most.
const WINDOW: u64 = 50_000;
/// The same where every event's deliveries have to be looked at.
const WINDOW_BY_STATUS: u64 = 5_000;

#[async_trait]
impl History for SqliteBackend {
    async fn events(&self, query: &EventQuery) -> Result<EventPage> {
        let stream = &self.inner.stream;
        stream.check()?;
        let (trimmed, head) = (stream.trimmed(), stream.tail.head());
        let after = query.after.map(Position::low);
        if !query.descending && after.is_some_and(|after| after < trimmed) {
            return Err(Error::new(
                ErrorKind::Gone,
                format!("events up to {trimmed} were removed by retention"),
            ));
        }
        let query = query.clone();
        let stream = std::sync::Arc::clone(stream);
        let read = move |db: &Connection| {
            let bounds = bounds(db, &query, trimmed, head)?;
            page(db, &stream, &query, bounds)
        };
        self.inner.readers.read(read).await
    }

    async fn event(&self, id: &str, source: Option<&str>) -> Result<Vec<Recorded>> {
        let stream = std::sync::Arc::clone(&self.inner.stream);
        stream.check()?;
        let id = EventId::parse(id)?;
        let source = match source.map(|source| stream.names.source_number(source)) {
            Some(None) => return Ok(Vec::new()),
            Some(number) => number,
            None => None,
        };
        let read = move |db: &Connection| {
            let found = by_id(db, &stream, &id, source)?;
            Ok(found.into_iter().map(row::recorded).collect())
        };
        self.inner.readers.read(read).await
    }

    async fn deliveries(&self, position: Position) -> Result<Vec<DeliveryInfo>> {
        let stream = std::sync::Arc::clone(&self.inner.stream);
        stream.check()?;
        let position = position.low();
        let read = move |db: &Connection| match one(db, &stream, position)? {
            Some(entry) => deliveries(db, &stream, &entry),
            None => Err(Error::new(
                ErrorKind::NotFound,
                format!("no event at {position}"),
            )),
        };
        self.inner.readers.read(read).await
    }

    async fn head(&self) -> Result<Position> {
        self.inner.stream.check()?;
        Ok(Position::from(self.inner.stream.tail.head()))
    }

    async fn wait_beyond(&self, position: Position, wait: Duration) -> Result<Position> {
        let stream = &self.inner.stream;
        stream.check()?;
        let clock = &stream.config.clock;
        let deadline = clock.now() + wait;
        let mut watched = stream.tail.watch();
        loop {
            stream.check()?;
            let head = Position::from(*watched.borrow_and_update());
            if head > position || clock.now() >= deadline {
                return Ok(head);
            }
            // The sender lives in `self`; it also tells when the stream ends.
            tokio::select! {
                _ = watched.changed() => {}
                () = clock.sleep_until(deadline) => {}
            }
        }
    }
}

/// Positions above `after` and up to `last`.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    after: u64,
    last: u64,
}

/// What the query leaves of the log by position and time.
fn bounds(db: &Connection, query: &EventQuery, trimmed: u64, head: u64) -> Result<Bounds> {
    let mut bounds = Bounds {
        after: trimmed,
        last: head,
    };
    if let Some(after) = query.after.map(Position::low) {
        if query.descending {
            bounds.last = bounds.last.min(after.saturating_sub(1));
        } else {
            bounds.after = bounds.after.max(after);
        }
    }
    if let Some(since) = query.since {
        let first = first_recorded(db, trimmed, head, since).map_err(error::sqlite)?;
        bounds.after = bounds.after.max(first.saturating_sub(1));
    }
    if let Some(until) = query.until {
        let first = first_recorded(db, trimmed, head, until).map_err(error::sqlite)?;
        bounds.last = bounds.last.min(first.saturating_sub(1));
    }
    Ok(bounds)
}

/// The first position recorded at or after `time`, beyond `head` when there is none. Times never fall
/// along the log, so a search by halves finds it without an index.
pub(crate) fn first_recorded(
    db: &Connection,
    after: u64,
    head: u64,
    time: Timestamp,
) -> rusqlite::Result<u64> {
    let wanted = time.as_nanos();
    let (mut low, mut high) = (after + 1, head + 1);
    let mut next =
        db.prepare_cached("SELECT pos, time FROM log WHERE pos >= ?1 ORDER BY pos LIMIT 1")?;
    while low < high {
        let middle = low + (high - low) / 2;
        let found = next
            .query_row([integer(middle)], |row| {
                Ok((row.get(0)?, row.get::<_, i64>(1)?))
            })
            .optional()?
            .map(|(position, time)| (unsigned(position), i128::from(time) * 1_000));
        match found {
            Some((position, time)) if time < wanted => low = position + 1,
            Some(_) | None => high = middle,
        }
    }
    let found = next
        .query_row([integer(low)], |row| row.get(0))
        .optional()?;
    Ok(found.map_or(head + 1, unsigned))
}

fn page(db: &Connection, stream: &Stream, query: &EventQuery, bounds: Bounds) -> Result<EventPage> {
    let Bounds { after, last } = bounds;
    if after >= last {
        return Ok(EventPage::default());
    }
    let width = query.status.map_or(WINDOW, |_| WINDOW_BY_STATUS);
    let window = if query.descending {
        (after.max(last.saturating_sub(width)), last)
    } else {
        (after, last.min(after + width))
    };
    let limit = query.limit.clamp(1, PAGE);
    let sql = select(stream, query);
    let mut statement = db.prepare_cached(&sql).map_err(error::sqlite)?;
    let source = query.source.as_deref();
    let source = source.map(|source| stream.names.source_number(source).unwrap_or(0));
    let mut rows = statement
        .query((integer(window.0), integer(window.1), source))
        .map_err(error::sqlite)?;
    let mut page = EventPage::default();
    while let Some(row) = rows.next().map_err(error::sqlite)? {
        let entry = row::read(row, &stream.names)?;
        if !wanted(db, stream, query, &entry)? {
            continue;
        }
        let position = entry.position();
        page.items.push(row::recorded(entry));
        if page.items.len() == limit {
            page.next = Some(position);
            break;
        }
    }
    if page.next.is_none() {
        // The window is through; the log may not be.
        page.next = if query.descending {
            (window.0 > after).then(|| Position::from(window.0 + 1))
        } else {
            (window.1 < last).then(|| Position::from(window.1))
        };
    }
    Ok(page)
}

fn select(stream: &Stream, query: &EventQuery) -> String {
    let mut sql = format!(
        "SELECT {} FROM log WHERE pos > ?1 AND pos <= ?2",
        row::COLUMNS
    );
    sql.push_str(" AND (?3 IS NULL OR source = ?3)");
    if let Some(patterns) = &query.patterns {
        let kinds = stream
            .names
            .types_where(|event_type| patterns.matches(event_type));
        let kinds: Vec<String> = kinds.iter().map(u32::to_string).collect();
        sql.extend([" AND type IN (", &kinds.join(","), ")"]);
    }
    sql.push_str(if query.descending {
        " ORDER BY pos DESC"
    } else {
        " ORDER BY pos"
    });
    sql
}

/// What the statement did not ask already.
fn wanted(db: &Connection, stream: &Stream, query: &EventQuery, entry: &Entry) -> Result<bool> {
    if query
        .key
        .as_deref()
        .is_some_and(|key| entry.event.key() != Some(key))
    {
        return Ok(false);
    }
    match query.status {
        None => Ok(true),
        Some(status) => Ok(EventStatus::of(&deliveries(db, stream, entry)?) == status),
    }
}

pub(crate) fn by_id(
    db: &Connection,
    stream: &Stream,
    id: &EventId,
    source: Option<u32>,
) -> Result<Vec<Entry>> {
    let sql = format!(
        "SELECT {} FROM log WHERE id = ?1 AND (?2 IS NULL OR source = ?2) AND pos > ?3 ORDER BY pos",
        row::COLUMNS
    );
    let mut statement = db.prepare_cached(&sql).map_err(error::sqlite)?;
    let mut rows = statement
        .query((id_column(id), source, integer(stream.trimmed())))
        .map_err(error::sqlite)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(error::sqlite)? {
        found.push(row::read(row, &stream.names)?);
    }
    Ok(found)
}

fn one(db: &Connection, stream: &Stream, position: u64) -> Result<Option<Entry>> {
    if let Some(entry) = stream.tail.get(position) {
        return Ok(Some(entry));
    }
    let sql = format!("SELECT {} FROM log WHERE pos = ?1", row::COLUMNS);
    let mut statement = db.prepare_cached(&sql).map_err(error::sqlite)?;
    let mut rows = statement
        .query([integer(position)])
        .map_err(error::sqlite)?;
    match rows.next().map_err(error::sqlite)? {
        Some(row) if position > stream.trimmed() => row::read(row, &stream.names).map(Some),
        _ => Ok(None),
    }
}

/// Where each subscription stands with this event, as its cursor has it now.
fn deliveries(db: &Connection, stream: &Stream, entry: &Entry) -> Result<Vec<DeliveryInfo>> {
    let mut all = Vec::new();
    for subscription in stream.subscriptions.durable() {
        let (standing, above) = {
            let mut live = subscription.live.lock();
            let event_type = entry.event.event_type();
            let theirs = entry.position > live.cursor.place().base
                && live.matches(entry.position, entry.kind, event_type);
            let standing = live.cursor.standing(entry.position);
            if !theirs && standing.is_none() {
                continue;
            }
            (standing, entry.position > live.cursor.frontier())
        };
        let (state, due) = match standing.as_ref().map(|s| s.standing) {
            Some(Standing::Leased(_)) => (DeliveryState::InFlight, None),
            Some(Standing::Waiting(due)) => (DeliveryState::Waiting, Some(due)),
            Some(_) => (DeliveryState::Waiting, None),
            None if above => (DeliveryState::Waiting, None),
            None => (DeliveryState::Settled, None),
        };
        let mut info = DeliveryInfo {
            subscription: subscription.name.clone(),
            state,
            attempts: standing.map_or(0, |s| s.attempts),
            due,
        };
        if info.state == DeliveryState::Settled
            && let Some(attempts) = dead_attempts(db, subscription.number, entry.position)?
        {
            info.state = DeliveryState::Dead;
            info.attempts = attempts;
        }
        all.push(info);
    }
    Ok(all)
}

/// How many attempts its dead letter had, if there is one.
fn dead_attempts(db: &Connection, number: Option<i64>, position: u64) -> Result<Option<u32>> {
    db.prepare_cached("SELECT attempts FROM dead WHERE sub = ?1 AND pos = ?2 AND standing = 0")
        .and_then(|mut find| {
            find.query_row((number, integer(position)), |row| row.get(0))
                .optional()
        })
        .map_err(error::sqlite)
}
