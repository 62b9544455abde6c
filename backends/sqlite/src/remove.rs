//! Removing whole streams: all files of each. Streams that are open anywhere are refused.

use std::fs::{File, TryLockError};
use std::path::Path;

use fanfare_core::{Error, ErrorKind, Result};

use crate::connect::sync_dir;
use crate::error;

/// What the files of a stream end in; the one that is locked goes last.
const SUFFIXES: [&str; 7] = [
    ".db", ".db-wal", ".db-shm", ".failed", ".reserve", ".running", ".lock",
];

/// Removes every stream in the directory whose name begins with `prefix`, with all that belongs to it.
/// [`Locked`](ErrorKind::Locked) where a process has one open; those before it are gone then.
pub fn remove(dir: &Path, prefix: &str) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let failed = |e| error::file(e, dir);
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let stream = name.to_str().and_then(|name| name.strip_suffix(".lock"));
        if let Some(stream) = stream.filter(|stream| stream.starts_with(prefix)) {
            remove_one(dir, stream)?;
        }
    }
    sync_dir(dir)
}

fn remove_one(dir: &Path, stream: &str) -> Result<()> {
    let file = |suffix: &str| dir.join(format!("{stream}{suffix}"));
    let path = file(".lock");
    let lock = File::open(&path).map_err(|e| error::file(e, &path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let text = format!("stream `{stream}` is in use by another process");
            return Err(Error::new(ErrorKind::Locked, text));
        }
        Err(TryLockError::Error(e)) => return Err(error::file(e, &path)),
    }
    for path in SUFFIXES.map(file) {
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(error::file(e, &path));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use fanfare_core::backend::Backend;

    use super::*;
    use crate::{SqliteBackend, SqliteConfig};

    #[tokio::test]
    async fn a_stream_goes_with_all_its_files_and_another_stays() {
        let dir = tempfile::tempdir().unwrap();
        let open = async |stream: &str| {
            let mut config = SqliteConfig::new(dir.path());
            config.stream = stream.into();
            SqliteBackend::open(config).await.unwrap()
        };
        let (one, other) = (open("suite_1").await, open("orders").await);
        let refused = remove(dir.path(), "suite_").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Locked);
        one.close().await.unwrap();
        other.close().await.unwrap();
        remove(dir.path(), "suite_").unwrap();
        let left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(!left.is_empty());
        assert!(
            left.iter().all(|name| name.starts_with("orders.")),
            "{left:?}"
        );
    }
}
