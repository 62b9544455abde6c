//! The tables, format 1, and the steps that bring older formats here. Frozen once released: a change
//! is a new format with a step, and `tests/fixtures` holds one dump of every format.

use fanfare_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, OptionalExtension, Transaction};

use crate::error;

/// What this version writes.
pub(crate) const FORMAT: i64 = 1;

/// `FANF`, so that `file` and SQLite tools can name the database.
const APPLICATION_ID: i32 = 0x4641_4E46;

/// The log is appended to and trimmed from its head, never changed. Types and sources are numbers of
/// their dictionary. `id` is 16 bytes where it is a canonical UUID, text otherwise; the index leads
/// with it, because ids made one after another then share a page whatever their source.
const TABLES: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE type (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE source (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
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
CREATE TABLE census (
    block INTEGER NOT NULL,
    type INTEGER NOT NULL,
    events INTEGER NOT NULL,
    PRIMARY KEY (block, type)
) STRICT, WITHOUT ROWID;
CREATE TABLE horizon (time INTEGER PRIMARY KEY, pos INTEGER NOT NULL) STRICT;
CREATE TABLE subscription (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    spec TEXT NOT NULL,
    created INTEGER NOT NULL,
    paused INTEGER NOT NULL
) STRICT;
CREATE TABLE place (
    sub INTEGER PRIMARY KEY,
    base INTEGER NOT NULL,
    frontier INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    acknowledged INTEGER NOT NULL,
    dropped INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    extra INTEGER NOT NULL
) STRICT;
CREATE TABLE lease (
    sub INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    until INTEGER NOT NULL,
    positions BLOB NOT NULL,
    PRIMARY KEY (sub, epoch)
) STRICT, WITHOUT ROWID;
CREATE TABLE exception (
    sub INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    standing INTEGER NOT NULL,
    at INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    charged INTEGER NOT NULL,
    first_failure INTEGER,
    error TEXT NOT NULL,
    key TEXT,
    PRIMARY KEY (sub, pos)
) STRICT, WITHOUT ROWID;
CREATE TABLE block (
    sub INTEGER NOT NULL,
    block INTEGER NOT NULL,
    acknowledged INTEGER NOT NULL,
    dropped INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    extra INTEGER NOT NULL,
    PRIMARY KEY (sub, block)
) STRICT, WITHOUT ROWID;
CREATE TABLE dead (
    letter INTEGER PRIMARY KEY AUTOINCREMENT,
    sub INTEGER NOT NULL,
    pos INTEGER NOT NULL,
    standing INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    id ANY NOT NULL,
    source INTEGER NOT NULL,
    type INTEGER NOT NULL,
    attrs BLOB NOT NULL,
    data BLOB,
    original_kind INTEGER,
    original BLOB,
    reason TEXT NOT NULL,
    error TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    first_failure INTEGER NOT NULL,
    last_failure INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    parks TEXT
) STRICT;
CREATE INDEX dead_delivery ON dead (sub, pos);
CREATE TABLE state (
    key TEXT PRIMARY KEY,
    value BLOB NOT NULL,
    version INTEGER NOT NULL
) STRICT;
";

/// Creates the tables in an empty database, or migrates, or refuses.
pub(crate) fn prepare(db: &mut Connection) -> Result<()> {
    let tx = db.transaction().map_err(error::sqlite)?;
    match stored_format(&tx)? {
        None => create(&tx).map_err(error::sqlite)?,
        Some(FORMAT) => return Ok(()),
        Some(newer) if newer > FORMAT => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the database has format {newer}, this version reads up to {FORMAT}: use the \
                     newer fanfare that wrote it"
                ),
            ));
        }
        Some(unknown) => return Err(error::corrupt(format!("format {unknown} never existed"))),
    }
    tx.commit().map_err(error::sqlite)
}

/// The format on disk; none where there is nothing yet.
fn stored_format(tx: &Transaction<'_>) -> Result<Option<i64>> {
    let tables: i64 = tx
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(error::sqlite)?;
    if tables == 0 {
        return Ok(None);
    }
    let ours: i32 = tx
        .query_row("PRAGMA application_id", [], |row| row.get(0))
        .map_err(error::sqlite)?;
    if ours != APPLICATION_ID {
        return Err(Error::new(
            ErrorKind::Conflict,
            "there is a database of another program under this name",
        ));
    }
    tx.query_row("SELECT value FROM meta WHERE key = 'format'", [], |row| {
        row.get(0)
    })
    .optional()
    .map_err(error::sqlite)?
    .map(Some)
    .ok_or_else(|| error::corrupt("the format is missing"))
}

fn create(tx: &Transaction<'_>) -> rusqlite::Result<()> {
    tx.execute_batch(TABLES)?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.execute(
        "INSERT INTO meta (key, value) VALUES ('format', ?1), ('trimmed', 0), ('opens', 0), ('state_version', 0)",
        [FORMAT],
    )?;
    Ok(())
}
