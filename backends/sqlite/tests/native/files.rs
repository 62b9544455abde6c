//! The directory: its lock, its format, what is refused and why.

use fanfare_core::ErrorKind;
use fanfare_core::backend::Backend;
use fanfare_sqlite::{SqliteBackend, SqliteConfig};

use super::stage::*;

async fn refusal(config: SqliteConfig) -> fanfare_core::Error {
    match SqliteBackend::open(config).await {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_stream_is_open_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).await;
    let error = refusal(config(dir.path())).await;
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    let other = SqliteConfig {
        stream: "other".into(),
        ..config(dir.path())
    };
    SqliteBackend::open(other).await.unwrap();
    first.close().await.unwrap();
    open(dir.path()).await;
}

#[tokio::test]
async fn calls_after_close_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let backend = open(dir.path()).await;
    backend.close().await.unwrap();
    backend.close().await.unwrap();
    let error = backend.publish(&[event(1)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(
        backend.state().get("k").await.unwrap_err().kind(),
        ErrorKind::Closed
    );
    assert!(!backend.admin().health().await.ok);
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.close().await.unwrap();
    let db = rusqlite::Connection::open(dir.path().join("fanfare.db")).unwrap();
    db.execute("UPDATE meta SET value = 99 WHERE key = 'format'", [])
        .unwrap();
    db.close().unwrap();
    let error = refusal(config(dir.path())).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[tokio::test]
async fn somebody_elses_database_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fanfare.db");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")
        .unwrap();
    db.close().unwrap();
    let error = refusal(config(dir.path())).await;
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}

#[tokio::test]
async fn a_corrupted_file_is_named_as_such() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("fanfare.db"), vec![0x5A; 40_000]).unwrap();
    let error = refusal(config(dir.path())).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(
        error.to_string().contains("backup"),
        "says what to do: {error}"
    );
}

#[tokio::test]
async fn a_file_in_the_way_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "x").unwrap();
    let error = refusal(config(&path)).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let bad = SqliteConfig {
        stream: "../x".into(),
        ..config(dir.path())
    };
    assert_eq!(refusal(bad).await.kind(), ErrorKind::Invalid);
}
