//! For operators: checking the whole database, copying it while it is in use, and trimming it now.

use std::path::PathBuf;
use std::sync::Arc;

use fanfare_core::admin::{Admin, Audited};
use fanfare_core::{Error, ErrorKind, Result};
use rusqlite::Connection;
use serde::Serialize;

use crate::backend::SqliteBackend;
use crate::backup;
use crate::connect::schema;
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

    /// Copies the stream, as of one moment, into the directory `target`; see [`back_up`](crate::back_up).
    /// Publishing goes on meanwhile.
    pub async fn backup_to(&self, target: impl Into<PathBuf>) -> Result<u64> {
        self.inner.stream.check()?;
        let (config, target) = (self.inner.stream.config.clone(), target.into());
        let copying = tokio::task::spawn_blocking(move || backup::back_up(&config, &target));
        copying
            .await
            .map_err(|e| Error::new(ErrorKind::Internal, "the copy was cut off").because(e))?
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
