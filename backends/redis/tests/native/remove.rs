//! Removing streams by the beginning of their names: all of each, and nothing else, wherever they are.

use std::time::Duration;

use fanfare_conformance::broker::{Durability, RedisCluster};
use fanfare_core::backend::Backend;
use fanfare_redis::{RedisBackend, RedisConfig};

use super::stage::{all, events, publish, server, subscribe};

/// Makes the stream, with a subscription and a value beside it.
async fn make(url: &str, stream: &str) {
    let backend = RedisBackend::open(RedisConfig::new(url, stream))
        .await
        .unwrap();
    publish(&backend, &events(1)[0]).await.unwrap();
    subscribe(&backend, Duration::from_secs(30)).await;
    backend.state().increment("count", 1).await.unwrap();
    backend.close().await.unwrap();
}

/// Events of the stream, and whether its subscription is there.
async fn left(url: &str, stream: &str) -> (u64, bool) {
    let backend = RedisBackend::open(RedisConfig::new(url, stream))
        .await
        .unwrap();
    let events = backend.admin().stats().await.unwrap().events;
    let subscribed = backend.admin().get(&all()).await.is_ok();
    backend.close().await.unwrap();
    (events, subscribed)
}

async fn check(url: &str) {
    // Enough of them to be on every server of a cluster.
    let gone: Vec<_> = (0..8).map(|n| format!("gone*_{n}")).collect();
    for stream in gone
        .iter()
        .map(String::as_str)
        .chain(["stays", "not_gone*_1"])
    {
        make(url, stream).await;
    }
    let config = RedisConfig::new(url, "whatever");
    RedisBackend::remove(config, "gone*_").await.unwrap();
    for stream in &gone {
        assert_eq!(left(url, stream).await, (0, false), "{stream}");
    }
    assert_eq!(left(url, "stays").await, (1, true));
    assert_eq!(left(url, "not_gone*_1").await, (1, true));
}

#[tokio::test]
async fn streams_are_removed_by_the_beginning_of_their_names() {
    check(&server().await.url()).await;
}

#[tokio::test]
async fn streams_are_removed_from_every_master_of_a_cluster() {
    let cluster = RedisCluster::start(Durability::Always, false)
        .await
        .unwrap();
    check(&cluster.url()).await;
}
