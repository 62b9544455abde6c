//! Commits and reads: that they are shared, and that memory and disk tell the same story.

use std::collections::BTreeSet;

use fanfare_core::backend::Backend;
use fanfare_sqlite::{SqliteBackend, SqliteConfig};

use super::stage::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_publishes_share_commits() {
    let dir = tempfile::tempdir().unwrap();
    let backend = open(dir.path()).await;
    let before = backend.commits();
    let tasks: Vec<_> = (0..500)
        .map(|n| {
            let backend = backend.clone();
            tokio::spawn(async move { publish(&backend, n..=n).await[0].position })
        })
        .collect();
    let mut positions = BTreeSet::new();
    for task in tasks {
        positions.insert(task.await.unwrap().unwrap());
    }
    assert_eq!(positions.len(), 500, "each has its own position");
    let commits = backend.commits() - before;
    assert!(commits < 250, "{commits} commits for 500 publishes");
}

#[tokio::test]
async fn the_tail_and_the_disk_tell_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let small = SqliteConfig {
        tail_events: 10,
        ..config(dir.path())
    };
    let backend = SqliteBackend::open(small).await.unwrap();
    backend.admin().put(&spec("all", "**")).await.unwrap();
    backend
        .admin()
        .put(&spec("even", "test.even"))
        .await
        .unwrap();
    publish(&backend, 1..=3_000).await;
    let from_disk = drain(&join(&backend, "all").await).await;
    assert_eq!(from_disk, ids(1..=3_000));
    let even = drain(&join(&backend, "even").await).await;
    assert_eq!(even, ids((1..=3_000).filter(|n| n % 2 == 0)));
    assert_balanced(&backend).await;
}

#[tokio::test]
async fn duplicates_are_found_within_a_batch_and_across() {
    let dir = tempfile::tempdir().unwrap();
    let backend = open(dir.path()).await;
    let first = publish(&backend, 1..=100).await;
    let mixed = publish(&backend, (50..=150).chain(1..=1)).await;
    for (n, published) in (50..=150).zip(&mixed) {
        assert_eq!(published.duplicate, n <= 100, "{n}");
    }
    assert_eq!(mixed[0].position, first[49].position);
    assert!(mixed.last().unwrap().duplicate);
    assert_eq!(backend.admin().stats().await.unwrap().events, 150);
}
