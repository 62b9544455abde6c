//! Start: reads where the log ends and what each subscription left, after a clean end or any other.

use std::sync::Arc;

use fanfare_core::Result;
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::Cursor;
use rusqlite::{Connection, OptionalExtension};

use crate::census::Census;
use crate::config::SqliteConfig;
use crate::connect::{self, Store};
use crate::dead_letters;
use crate::error;
use crate::names::Names;
use crate::row::{self, integer, unsigned};
use crate::running::{Ran, Running};
use crate::stream::Stream;
use crate::subscription::{Live, Subscription, options, stored};
use crate::tail::Tail;
use crate::writer::cursors;

/// An open stream that nobody uses yet.
pub(crate) struct Recovered {
    pub(crate) store: Store,
    pub(crate) stream: Stream,
    pub(crate) running: Running,
    /// When the last event was recorded, in microseconds.
    pub(crate) recorded: i64,
}

/// A hint that reaches further above the frontier than this is not believed.
const MOST_LOST: u64 = 1_000_000;

/// Opens the database and restores everything from it.
pub(crate) fn open(config: SqliteConfig) -> Result<Recovered> {
    let store = connect::open(&config)?;
    let db = &store.db;
    let log = read_log(db).map_err(error::sqlite)?;
    let names = Names::load(db)?;
    let census = Census::load(db)?;
    let (running, ran) = Running::open(&config.file("running"))?;
    let tail = Tail::new(log.head, config.tail_events, config.tail_bytes);
    let stream = Stream::new(config, names, tail, census, log.trimmed, log.opens);
    restore_subscriptions(db, &stream, &ran)?;
    Ok(Recovered {
        store,
        stream,
        running,
        recorded: log.recorded,
    })
}

struct Log {
    head: u64,
    trimmed: u64,
    recorded: i64,
    opens: u64,
}

/// Counts this start, durably: the epochs of leases begin above those of every start before.
fn read_log(db: &Connection) -> rusqlite::Result<Log> {
    let number = |key: &str| {
        let sql = "SELECT value FROM meta WHERE key = ?1";
        db.query_row(sql, [key], |row| row.get::<_, i64>(0))
    };
    let trimmed = unsigned(number("trimmed")?);
    let opens = number("opens")? + 1;
    db.execute("UPDATE meta SET value = ?1 WHERE key = 'opens'", [opens])?;
    let last = db
        .query_row(
            "SELECT pos, time FROM log ORDER BY pos DESC LIMIT 1",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    let (head, recorded) = last.unwrap_or((0, 0));
    Ok(Log {
        head: unsigned(head).max(trimmed),
        trimmed,
        recorded,
        opens: unsigned(opens),
    })
}

fn restore_subscriptions(db: &Connection, stream: &Stream, ran: &[Ran]) -> Result<()> {
    let mut statement = db
        .prepare("SELECT number, name, spec, created, paused FROM subscription")
        .map_err(error::sqlite)?;
    let rows = statement.query_map([], |row| {
        Ok((
            row.get(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, String>(2)?,
            row.get(3)?,
            row.get(4)?,
        ))
    });
    for row in rows.map_err(error::sqlite)? {
        let (number, name, spec, created, paused) = row.map_err(error::sqlite)?;
        let (spec, interest) = stored::read(&name, &spec)?;
        let rows = cursors::read(db, number).map_err(error::sqlite)?;
        let cursor = Cursor::restore(options(&spec), rows, stream.first_epoch());
        let mut live = Live::new(spec, interest, cursor);
        live.paused = paused;
        dead_letters::restore(db, &stream.names, number, &mut live)?;
        for (_, first, last) in ran.iter().filter(|(n, _, _)| *n == number) {
            suspect(db, stream, &mut live, *first, *last)?;
        }
        let created = Timestamp::from_micros(created);
        let subscription = Subscription::new(Some(number), created, live);
        stream.subscriptions.add(Arc::new(subscription));
    }
    Ok(())
}

/// What ran when the last process died comes back alone. The claims of which no commit told are above
/// the frontier: every matching event up to the last that ran is taken for one of them.
fn suspect(db: &Connection, stream: &Stream, live: &mut Live, first: u64, last: u64) -> Result<()> {
    let frontier = live.cursor.frontier();
    let last = last.min(stream.tail.head());
    let mut running = Vec::new();
    if last > frontier && last - frontier <= MOST_LOST {
        let sql = format!(
            "SELECT {} FROM log WHERE pos > ?1 AND pos <= ?2 ORDER BY pos",
            row::COLUMNS
        );
        let mut statement = db.prepare_cached(&sql).map_err(error::sqlite)?;
        let mut rows = statement
            .query((integer(frontier), integer(last)))
            .map_err(error::sqlite)?;
        while let Some(row) = rows.next().map_err(error::sqlite)? {
            let entry = row::read(row, &stream.names)?;
            if live.matches(entry.position, entry.kind, entry.event.event_type()) {
                running.push((entry.position, entry.event.key().map(Arc::from)));
            }
        }
    }
    live.cursor.suspect(first, last, running);
    Ok(())
}
