//! A copy of a stream's database as of one moment, taken while another process may write it. The copy
//! is a directory like any other: restoring is opening it.

use std::fs::File;
use std::path::Path;

use fanfare_core::{Error, ErrorKind, Result};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use crate::config::SqliteConfig;
use crate::{connect, error};

/// Copies the stream that `config` names into the directory `target`, which must not hold that stream
/// yet. The copy is checked and durable when this returns; answers its bytes. Blocks.
pub fn back_up(config: &SqliteConfig, target: &Path) -> Result<u64> {
    config.check()?;
    let from = config.file("db");
    if !from.is_file() {
        let message = format!("there is no stream in {}", from.display());
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    std::fs::create_dir_all(target).map_err(|e| error::file(e, target))?;
    let copy = target.join(format!("{}.db", config.stream));
    if copy.exists() {
        let message = format!("{} is there already", copy.display());
        return Err(Error::new(ErrorKind::Conflict, message));
    }
    // A copy that was cut off is overwritten by the next one.
    let partial = target.join(format!("{}.db.partial", config.stream));
    File::create(&partial).map_err(|e| error::file(e, &partial))?;
    copy_pages(&from, &partial)?;
    let file = File::open(&partial).map_err(|e| error::file(e, &partial))?;
    file.sync_all().map_err(|e| error::file(e, &partial))?;
    let bytes = file.metadata().map_err(|e| error::file(e, &partial))?.len();
    std::fs::rename(&partial, &copy).map_err(|e| error::file(e, &copy))?;
    connect::sync_dir(target)?;
    Ok(bytes)
}

/// One step, and so one read transaction: the writer goes on meanwhile in the write-ahead log.
fn copy_pages(from: &Path, to: &Path) -> Result<()> {
    let source = connect::open_reader(from)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut copy = Connection::open_with_flags(to, flags).map_err(error::sqlite)?;
    // A copy that does not finish is thrown away, so it needs no journal of its own.
    copy.pragma_update(None, "journal_mode", "OFF")
        .map_err(error::sqlite)?;
    copy.pragma_update(None, "synchronous", "OFF")
        .map_err(error::sqlite)?;
    let backup = Backup::new(&source, &mut copy).map_err(error::sqlite)?;
    let step = backup.step(-1).map_err(error::sqlite)?;
    drop(backup);
    if !matches!(step, StepResult::Done) {
        return Err(Error::new(
            ErrorKind::Locked,
            "the database is held by another program, try again",
        ));
    }
    let verdict: String = copy
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(error::sqlite)?;
    if verdict != "ok" {
        return Err(error::corrupt(verdict));
    }
    copy.close().map_err(|(_, e)| error::sqlite(e))
}
