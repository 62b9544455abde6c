//! For operators: checking the whole database, copying it while it is in use, and trimming it now.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fanfare_core::admin::{Admin, Audited};
use fanfare_core::position::Position;
use fanfare_core::{Error, ErrorKind, Result};
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use serde::Serialize;

use crate::backend::SqliteBackend;
use crate::connect::{self, schema};
use crate::error;
use crate::retention;
use crate::row::{self, integer};
use crate::stream::Stream;

/// The most problems that a verification names.
const PROBLEMS: usize = 100;

/// What a verification found.
#[derive(Debug, Clone, Serialize)]
pub struct Verified {
    /// Whether everything is as it should be.
    pub ok: bool,
    /// What is not, at most 100 lines.
    pub problems: Vec<String>,
    /// The format on disk.
    pub format: i64,
    /// Events kept.
    pub events: u64,
    /// Bytes that they and all else take.
    pub bytes: u64,
    /// Every subscription's balance.
    pub audit: Vec<Audited>,
}

/// A finished copy.
#[derive(Debug, Clone, Serialize)]
pub struct BackedUp {
    /// The file: named `<stream>.db` in an empty directory, it is a stream again.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The newest event in it.
    pub head: Position,
}

impl SqliteBackend {
    /// Checks the pages, and the log against the subscriptions; where `thorough` also every index entry
    /// and every event. It reads everything: minutes for a large stream. Publishing goes on meanwhile.
    pub async fn verify(&self, thorough: bool) -> Result<Verified> {
        self.inner.stream.check()?;
        let stream = Arc::clone(&self.inner.stream);
        let read = move |db: &Connection| problems(db, &stream, thorough);
        let mut problems = self.inner.readers.read(read).await?;
        let audit = self.audit(None).await?;
        for audited in audit.iter().filter(|a| !a.breaches.is_empty()) {
            let count = audited.breaches.len();
            problems.push(format!("subscription `{}`: {count} breaches", audited.name));
        }
        let stats = self.stats().await?;
        Ok(Verified {
            ok: problems.is_empty(),
            problems,
            format: schema::FORMAT,
            events: stats.events,
            bytes: stats.bytes,
            audit,
        })
    }

    /// Copies the stream, as it is at one moment, to the file `path`, which must not be there. It is
    /// whole and durable, or not there at all. Publishing goes on meanwhile.
    pub async fn backup_to(&self, path: impl Into<PathBuf>) -> Result<BackedUp> {
        self.inner.stream.check()?;
        let path = path.into();
        self.inner.readers.read(move |db| back_up(db, &path)).await
    }

    /// Trims what retention allows now, instead of at its next turn.
    pub async fn trim(&self) -> Result<()> {
        self.inner.stream.check()?;
        retention::trim_old(&self.inner).await
    }
}

fn problems(db: &Connection, stream: &Stream, thorough: bool) -> Result<Vec<String>> {
    let check = if thorough {
        "integrity_check"
    } else {
        "quick_check"
    };
    let check = format!("PRAGMA {check}({PROBLEMS})");
    let mut problems: Vec<String> = db
        .prepare(&check)
        .and_then(|mut check| check.query_map([], |row| row.get(0))?.collect())
        .map_err(error::sqlite)?;
    let ok = matches!(problems.as_slice(), [only] if only == "ok");
    if ok {
        problems.clear();
    }
    if thorough {
        unreadable(db, stream, &mut problems)?;
    }
    Ok(problems)
}

/// Reads every event.
fn unreadable(db: &Connection, stream: &Stream, problems: &mut Vec<String>) -> Result<()> {
    let sql = format!("SELECT {} FROM log WHERE pos > ?1", row::COLUMNS);
    let mut statement = db.prepare(&sql).map_err(error::sqlite)?;
    let mut rows = statement
        .query([integer(stream.trimmed())])
        .map_err(error::sqlite)?;
    while let Some(row) = rows.next().map_err(error::sqlite)? {
        if let Err(error) = row::read(row, &stream.names) {
            problems.push(error.message().to_owned());
        }
        if problems.len() >= PROBLEMS {
            break;
        }
    }
    Ok(())
}

fn back_up(db: &Connection, path: &Path) -> Result<BackedUp> {
    if path.exists() {
        let shown = path.display();
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("{shown} is there already"),
        ));
    }
    let mut partial = path.to_owned();
    partial.as_mut_os_string().push(".partial");
    let copied = copy(db, &partial).and_then(|head| {
        std::fs::rename(&partial, path).map_err(|e| error::file(e, path))?;
        Ok(head)
    });
    let head = match copied {
        Ok(head) => head,
        Err(error) => {
            // Half a copy is of no use; the error is what matters.
            let _ = std::fs::remove_file(&partial);
            return Err(error);
        }
    };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    connect::sync_dir(dir.unwrap_or(Path::new(".")))?;
    let file = std::fs::metadata(path).map_err(|e| error::file(e, path))?;
    Ok(BackedUp {
        path: path.to_owned(),
        bytes: file.len(),
        head,
    })
}

/// Copies all pages in one step: the writer goes on, and what it commits meanwhile is not in the copy.
fn copy(db: &Connection, to: &Path) -> Result<Position> {
    let mut copy = Connection::open(to).map_err(error::sqlite)?;
    let backup = Backup::new(db, &mut copy).map_err(error::sqlite)?;
    match backup.step(-1).map_err(error::sqlite)? {
        StepResult::Done => drop(backup),
        _ => {
            return Err(Error::new(
                ErrorKind::Locked,
                "the database was held by another program",
            ));
        }
    }
    let head: Option<i64> = copy
        .query_row("SELECT max(pos) FROM log", [], |row| row.get(0))
        .map_err(error::sqlite)?;
    copy.close().map_err(|(_, e)| error::sqlite(e))?;
    let file = std::fs::File::open(to).map_err(|e| error::file(e, to))?;
    file.sync_all().map_err(|e| error::file(e, to))?;
    Ok(Position::from(row::unsigned(head.unwrap_or(0))))
}
