//! Opens the stream's database: directory, one-process lock, settings, tables, and the verification
//! that a start after a failed write owes. Who reads and writes afterwards is not decided here.

pub(crate) mod schema;

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use fanfare_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, OpenFlags};

use crate::config::SqliteConfig;
use crate::error;

/// The open database and the lock that keeps others out. Fields are dropped in this order: the lock
/// goes last.
#[derive(Debug)]
pub(crate) struct Store {
    /// The only connection that writes.
    pub(crate) db: Connection,
    /// Held until the connection is closed.
    pub(crate) lock: Lock,
}

/// Keeps other processes out. Let go by name: a child that this process is just starting has the file
/// open too, and would hold it until it becomes another program.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Where this fails it ends with the last who has the file open.
        let _ = self.0.unlock();
    }
}

/// Opens or creates the database that `config` names, for this process alone.
pub(crate) fn open(config: &SqliteConfig) -> Result<Store> {
    config.check()?;
    std::fs::create_dir_all(&config.dir).map_err(|e| error::file(e, &config.dir))?;
    let lock = lock(config)?;
    let path = config.file("db");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(&path, flags).map_err(error::sqlite)?;
    set_up_writer(&db, config).map_err(error::sqlite)?;
    schema::prepare(&mut db)?;
    verify_after_failure(&db, config)?;
    // The names of new files are only durable once their directories are.
    for dir in [Some(config.dir.as_path()), config.dir.parent()] {
        let dir = dir.filter(|d| !d.as_os_str().is_empty());
        sync_dir(dir.unwrap_or(Path::new(".")))?;
    }
    Ok(Store { db, lock })
}

/// A connection that sees every commit and cannot write.
pub(crate) fn open_reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(error::sqlite)?;
    let set_up = || {
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        db.pragma_update(None, "cache_size", -8_192)?;
        db.pragma_update(None, "mmap_size", 0)?;
        db.pragma_update(None, "query_only", true)
    };
    set_up().map_err(error::sqlite)?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

/// Leaves a mark that makes the next start check every page. Best effort: the disk just failed.
pub(crate) fn mark_failed(config: &SqliteConfig) {
    if let Err(error) = File::create(config.file("failed")) {
        tracing::warn!(%error, "no mark for the next start");
    }
}

/// Makes created, renamed and removed names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| error::file(e, dir))
}

fn lock(config: &SqliteConfig) -> Result<Lock> {
    let path = config.file("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| error::file(e, &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(Error::new(
            ErrorKind::Locked,
            format!(
                "stream `{}` in {} is in use by another process: stop it, or use its HTTP API",
                config.stream,
                config.dir.display()
            ),
        )),
        Err(TryLockError::Error(e)) => Err(error::file(e, &path)),
    }
}

/// FULL makes every commit an fsync. Checkpoints are run by the writer itself, after it answered, so
/// that their errors are seen and nobody waits for them.
fn set_up_writer(db: &Connection, config: &SqliteConfig) -> rusqlite::Result<()> {
    db.busy_timeout(std::time::Duration::from_secs(5))?;
    db.pragma_update(None, "page_size", 4096)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "wal_autocheckpoint", 0)?;
    db.pragma_update(None, "cache_size", -i64::from(config.cache_kib))?;
    db.pragma_update(None, "mmap_size", 0)?;
    db.pragma_update(None, "temp_store", "MEMORY")?;
    db.pragma_update(None, "trusted_schema", false)?;
    db.pragma_update(None, "cell_size_check", true)?;
    db.set_prepared_statement_cache_capacity(128);
    Ok(())
}

fn verify_after_failure(db: &Connection, config: &SqliteConfig) -> Result<()> {
    let mark = config.file("failed");
    if !mark.exists() {
        return Ok(());
    }
    tracing::warn!(
        stream = config.stream,
        "the last run stopped after a failed write: checking every page"
    );
    let verdict: String = db
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(error::sqlite)?;
    if verdict != "ok" {
        return Err(error::corrupt(verdict));
    }
    std::fs::remove_file(&mark).map_err(|e| error::file(e, &mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_is_being_started_keeps_nobody_out() {
        let dir = tempfile::tempdir().unwrap();
        let config = SqliteConfig::new(dir.path());
        let held = lock(&config).unwrap();
        let inherited = held.0.try_clone().unwrap();
        assert_eq!(lock(&config).unwrap_err().kind(), ErrorKind::Locked);
        drop(held);
        lock(&config).unwrap();
        drop(inherited);
    }
}
