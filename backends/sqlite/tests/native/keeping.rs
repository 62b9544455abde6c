//! Retention, verification, backups.

use std::time::Duration;

use fanfare_core::ErrorKind;
use fanfare_core::backend::Backend;
use fanfare_core::dead_letter::{DeadLetterFilter, Selection};
use fanfare_core::delivery::Settlement;
use fanfare_core::history::EventQuery;
use fanfare_core::position::Position;
use fanfare_sqlite::{SqliteBackend, SqliteConfig};

use super::stage::*;

fn every_letter() -> Selection {
    Selection::Filter(DeadLetterFilter::default())
}

#[tokio::test]
async fn settled_blocks_go_after_a_week_and_nothing_unsettled_does() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let clock = config.clock.clone();
    let backend = SqliteBackend::open(config).await.unwrap();
    backend.admin().put(&spec("all", "**")).await.unwrap();
    backend
        .admin()
        .put(&spec("even", "test.even"))
        .await
        .unwrap();
    publish(&backend, 1..=20_000).await;
    let all = join(&backend, "all").await;
    let first = receive(&all, 1).await;
    let dead = Settlement::DeadLetter {
        reason: "rejected".into(),
        error: String::new(),
    };
    settle(&all, &first[0], dead).await;
    drain(&all).await;
    let even = join(&backend, "even").await;
    drain(&even).await;
    backend.trim().await.unwrap();
    clock.advance(Duration::from_hours(7 * 24 - 1));
    backend.trim().await.unwrap();
    assert_eq!(
        backend.admin().stats().await.unwrap().events,
        20_000,
        "not yet"
    );
    clock.advance(Duration::from_hours(2));
    backend.trim().await.unwrap();
    let stats = backend.admin().stats().await.unwrap();
    assert_eq!(stats.first, Some(Position(16_384)));
    assert_eq!(stats.events, 20_000 - 16_383);
    assert_balanced(&backend).await;
    let again = publish(&backend, 20_000..=20_000).await;
    assert!(again[0].duplicate, "what is kept is still known");

    let gone = EventQuery {
        after: Some(Position(5)),
        limit: 10,
        ..EventQuery::default()
    };
    let error = backend.history().unwrap().events(&gone).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone);

    // The letter outlived its event.
    assert_eq!(
        backend
            .dead_letters()
            .redrive(&every_letter(), 1)
            .await
            .unwrap()
            .done,
        1
    );
    assert_balanced(&backend).await;
    let redriven = receive(&all, 1).await;
    assert_eq!(redriven[0].event, event(1));
    settle(&all, &redriven[0], Settlement::Ack).await;
    assert_balanced(&backend).await;
    backend.close().await.unwrap();
    let backend = open(dir.path()).await;
    assert_balanced(&backend).await;
    let verified = backend.verify(true).await.unwrap();
    assert!(verified.ok, "{verified:?}");
}

#[tokio::test]
async fn one_unsettled_event_keeps_everything_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = SqliteConfig {
        retention: Duration::ZERO,
        ..config(dir.path())
    };
    let backend = SqliteBackend::open(config).await.unwrap();
    backend.admin().put(&spec("all", "**")).await.unwrap();
    publish(&backend, 1..=10_000).await;
    let consumer = join(&backend, "all").await;
    let held = receive(&consumer, 1).await;
    drain(&consumer).await;
    backend.trim().await.unwrap();
    assert_eq!(backend.admin().stats().await.unwrap().events, 10_000);
    settle(&consumer, &held[0], Settlement::Ack).await;
    backend.trim().await.unwrap();
    assert_eq!(
        backend.admin().stats().await.unwrap().events,
        10_000 - 8_191
    );
    assert_balanced(&backend).await;
}

#[tokio::test]
async fn a_backup_under_load_is_a_whole_stream() {
    let dir = tempfile::tempdir().unwrap();
    let backend = open(dir.path()).await;
    backend.admin().put(&spec("all", "**")).await.unwrap();
    publish(&backend, 1..=1_000).await;
    let copy = tempfile::tempdir().unwrap();
    let (backed_up, _) = tokio::join!(
        backend.backup_to(copy.path()),
        publish(&backend, 1_001..=5_000)
    );
    assert!(backed_up.unwrap() > 100_000);
    let error = backend.backup_to(copy.path()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "never over another copy");
    let restored = open(copy.path()).await;
    let kept = restored.history().unwrap().head().await.unwrap().low();
    assert!(kept >= 1_000, "{kept}");
    assert!(restored.verify(true).await.unwrap().ok);
    assert_eq!(drain(&join(&restored, "all").await).await, ids(1..=kept));
}

#[tokio::test]
async fn a_damaged_page_is_found_and_a_lost_row_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let backend = open(dir.path()).await;
    backend.admin().put(&spec("all", "**")).await.unwrap();
    publish(&backend, 1..=100).await;
    drain(&join(&backend, "all").await).await;
    backend.close().await.unwrap();
    let db = rusqlite::Connection::open(dir.path().join("fanfare.db")).unwrap();
    db.execute("DELETE FROM log WHERE pos = 50", []).unwrap();
    db.close().unwrap();
    let backend = open(dir.path()).await;
    let verified = backend.verify(false).await.unwrap();
    assert!(!verified.ok);
    let breach = &verified.audit[0].breaches[0];
    assert_eq!(breach.missing, -1, "more accounts than events");
    assert_eq!(breach.ids.len(), 99);
}
