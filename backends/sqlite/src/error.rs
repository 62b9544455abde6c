//! SQLite's and the file system's errors as ours. No other file looks at native codes.

use std::io;
use std::path::Path;

use fanfare_core::{Error, ErrorKind};
use rusqlite::ErrorCode;

/// What a corrupted database means for its owner.
const CORRUPT: &str = "the database is damaged: stop every process that uses it, keep a copy of the \
     directory, then restore the last `fanfare backup`, or salvage what is readable with \
     `sqlite3 <file> .recover`";

/// Maps an error of SQLite.
pub(crate) fn sqlite(error: rusqlite::Error) -> Error {
    let (kind, message) = match error.sqlite_error_code() {
        Some(ErrorCode::SystemIoFailure) if no_room_for_index(&error) => (
            ErrorKind::Full,
            "no room for the index of the write-ahead log",
        ),
        Some(ErrorCode::DiskFull) => (ErrorKind::Full, "the disk is full"),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => (ErrorKind::Corrupt, CORRUPT),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            (ErrorKind::Forbidden, "the database cannot be written")
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::Locked, "another program holds the database")
        }
        Some(ErrorCode::SystemIoFailure) => (ErrorKind::Storage, "reading or writing failed"),
        Some(ErrorCode::OutOfMemory) => (ErrorKind::Storage, "out of memory"),
        _ => (ErrorKind::Internal, "unexpected answer of the database"),
    };
    Error::new(kind, message).because(error)
}

/// On a full disk this file cannot grow either, and that has a code of its own. Nothing was committed.
fn no_room_for_index(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|e| e.extended_code);
    code == Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE)
}

/// Maps an error on `path`.
pub(crate) fn file(error: io::Error, path: &Path) -> Error {
    let shown = path.display();
    let (kind, message) = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => (
            ErrorKind::Forbidden,
            format!("{shown} cannot be written by this user, or the file system is read-only"),
        ),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (ErrorKind::Full, format!("no room for {shown}"))
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => (
            ErrorKind::Invalid,
            format!("{shown} is in the way: it is not a directory"),
        ),
        _ => (ErrorKind::Storage, format!("{shown} failed")),
    };
    Error::new(kind, message).because(error)
}

/// Every call after [`close`](fanfare_core::backend::Backend::close).
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the backend is closed")
}

/// Stored data that contradict each other, found above SQLite.
pub(crate) fn corrupt(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{what}; {CORRUPT}"))
}

/// The answer to a call whose commit failed: it may or may not be on disk.
pub(crate) fn unknown(cause: &Error) -> Error {
    Error::new(
        ErrorKind::Unknown,
        "the commit failed, so it is not known whether it is stored; publishing the same event \
         again is safe",
    )
    .because(cause.to_string())
}

/// The answer to every call after a failed commit.
pub(crate) fn poisoned(cause: &Error) -> Error {
    let kind = match cause.kind() {
        ErrorKind::Corrupt => ErrorKind::Corrupt,
        _ => ErrorKind::Storage,
    };
    Error::new(
        kind,
        "stopped after a failed write; restart to verify and go on",
    )
    .because(cause.to_string())
}
