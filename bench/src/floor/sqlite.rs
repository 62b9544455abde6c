//! Raw SQLite with the log table and identity index of the sqlite backend: WAL, synchronous FULL,
//! the same columns, duplicates ignored, many rows in one statement, group commit.

use std::path::{Path, PathBuf};

use fanfare::core::event::Event;
use fanfare::core::event_type::EventType;
use fanfare::core::id::EventId;
use fanfare::core::record;
use rusqlite::{CachedStatement, Connection, params};
use uuid::Uuid;

use super::group::{Group, Job};
use crate::Outcome;
use crate::measure::{Run, Sample, Watch};

/// How many rows one statement inserts, the most first.
const SIZES: [usize; 3] = [64, 16, 1];
/// The columns of a row.
const WIDTH: usize = 7;
/// How many events one read takes before the cursor is committed.
const READ: i64 = 100;

const TABLES: &str = "
CREATE TABLE log (
    pos INTEGER PRIMARY KEY,
    id ANY NOT NULL,
    source INTEGER NOT NULL,
    type INTEGER NOT NULL,
    time INTEGER NOT NULL,
    attrs BLOB NOT NULL,
    data BLOB
) STRICT;
CREATE UNIQUE INDEX log_identity ON log (id, source);
CREATE TABLE cursor (name TEXT PRIMARY KEY, pos INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO cursor VALUES ('bench', 0);
";

/// A writer on a fresh database in `dir`.
pub(crate) fn open(dir: &Path) -> Outcome<Group> {
    let db = connect(&path(dir))?;
    db.execute_batch(TABLES)?;
    let inserts = SIZES.map(|rows| (rows, insert(rows)));
    let mut next = 1;
    Ok(Group::start(move |jobs| {
        commit(&db, &inserts, &mut next, jobs)
    }))
}

fn commit(
    db: &Connection,
    inserts: &[(usize, String)],
    next: &mut i64,
    jobs: &[Job],
) -> Outcome<()> {
    db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    let mut rest = jobs;
    for (size, sql) in inserts {
        let mut statement = db.prepare_cached(sql)?;
        while let Some((chunk, after)) = rest.split_at_checked(*size) {
            for ((event, _), base) in chunk.iter().zip((1..).step_by(WIDTH)) {
                bind(&mut statement, base, *next, event)?;
                *next += 1;
            }
            statement.raw_execute()?;
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
    }
    db.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

fn bind(
    statement: &mut CachedStatement<'_>,
    base: usize,
    position: i64,
    event: &Event,
) -> Outcome<()> {
    statement.raw_bind_parameter(base, position)?;
    match event.id() {
        EventId::Uuid(uuid) => statement.raw_bind_parameter(base + 1, &uuid.as_bytes()[..])?,
        EventId::Text(text) => statement.raw_bind_parameter(base + 1, &**text)?,
    }
    let time = event
        .time()
        .map_or(0, fanfare::core::timestamp::Timestamp::as_micros);
    statement.raw_bind_parameter(base + 2, 1)?;
    statement.raw_bind_parameter(base + 3, 1)?;
    statement.raw_bind_parameter(base + 4, time)?;
    statement.raw_bind_parameter(base + 5, record::encode_attributes(event))?;
    statement.raw_bind_parameter(base + 6, event.bytes())?;
    Ok(())
}

/// Reads the whole log 100 events at a time, looks at each, and commits the cursor behind each
/// hundred.
pub(crate) fn consume(dir: &Path, handle: impl Fn(&Event)) -> Outcome<Sample> {
    let db = connect(&path(dir))?;
    let event_type = EventType::parse("orders.order.placed")?;
    let run = Run::begin();
    let mut taken = Vec::new();
    let (mut position, mut count) = (0, 0);
    loop {
        let watch = Watch::start();
        let before = count;
        let sql = "SELECT pos, id, attrs, data FROM log WHERE pos > ?1 ORDER BY pos LIMIT ?2";
        let mut select = db.prepare_cached(sql)?;
        let mut rows = select.query([position, READ])?;
        while let Some(row) = rows.next()? {
            position = row.get(0)?;
            let id = EventId::Uuid(Uuid::from_slice(row.get_ref(1)?.as_blob()?)?);
            let attrs = row.get_ref(2)?.as_blob()?;
            let data = row.get_ref(3)?.as_blob()?.to_vec();
            let event = record::decode(id, "/bench".into(), event_type.clone(), attrs, data)?;
            handle(&event);
            count += 1;
        }
        if count == before {
            return Ok(run.end(count, vec![taken]));
        }
        drop(rows);
        db.prepare_cached("UPDATE cursor SET pos = ?1 WHERE name = 'bench'")?
            .execute(params![position])?;
        taken.push(crate::load::nanos(watch));
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("raw.db")
}

fn connect(path: &Path) -> Outcome<Connection> {
    let db = Connection::open(path)?;
    db.pragma_update(None, "page_size", 4096)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "cache_size", -65_536)?;
    db.set_prepared_statement_cache_capacity(16);
    Ok(db)
}

fn insert(rows: usize) -> String {
    let values = vec!["(?,?,?,?,?,?,?)"; rows].join(",");
    format!(
        "INSERT INTO log (pos, id, source, type, time, attrs, data) VALUES {values} \
         ON CONFLICT (id, source) DO NOTHING"
    )
}
