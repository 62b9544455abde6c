//! A stream, a group or the keys beside them that somebody deleted: nothing that is there is lost,
//! and what is gone is reported once.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fanfare_conformance::broker::Broker;
use fanfare_core::backend::Backend;
use fanfare_core::delivery::Settled;
use fanfare_core::event::Event;
use fanfare_redis::RedisBackend;

use super::stage::{
    ack, client, command, counts, drain, events, open, publish, publish_surely, server, subscribe,
    within,
};
use super::wire::{THEIRS, lifecycle, they_publish};

const LEASE: Duration = Duration::from_secs(30);

async fn publish_all(backend: &RedisBackend, events: &[Event]) {
    for event in events {
        publish_surely(backend, event).await;
    }
}

/// How often something was found gone, and how many events.
async fn losses(backend: &RedisBackend) -> (u64, u64) {
    let stats = backend.admin().stats().await.unwrap();
    (stats.losses, stats.lost)
}

async fn delete_keys(broker: &Broker, pattern: &str) -> usize {
    let mut keys = redis::cmd("KEYS");
    let keys: Vec<String> = keys
        .arg(pattern)
        .query_async(&mut client(broker).await)
        .await
        .unwrap();
    for key in &keys {
        command(broker, &["DEL", key]).await;
    }
    keys.len()
}

#[tokio::test]
async fn a_deleted_stream_is_reported_once_and_later_events_come() {
    let broker = server().await;
    let (backend, other) = (open(broker.address()).await, open(broker.address()).await);
    let consumer = subscribe(&backend, LEASE).await;
    let before = events(5);
    publish_all(&backend, &before).await;
    let last = publish(&backend, &before[4]).await.unwrap().position;
    assert_eq!(ack_some(&consumer, 3).await, 3);
    command(&broker, &["DEL", "orders"]).await;
    let after = events(3);
    for event in &after {
        assert!(
            publish(&other, event).await.unwrap().position > last,
            "positions go on"
        );
    }
    drain(&consumer, &after).await;
    assert_eq!(losses(&backend).await, (1, 5));
    assert_eq!(losses(&other).await, (1, 5));
    let health = backend.admin().health().await;
    assert!(
        health.ok && health.detail.contains("1 times, 5 known"),
        "{}",
        health.detail
    );
    let counts = counts(&backend).await;
    assert_eq!(counts.unsettled(), 0, "{counts:?}");
    // Nothing of what is gone is taken for a duplicate.
    publish_all(&backend, &before).await;
    drain(&consumer, &before).await;
    assert_eq!(losses(&backend).await, (1, 5));
}

/// Receives and settles exactly `count`.
async fn ack_some(
    consumer: &std::sync::Arc<dyn fanfare_core::consumer::Consumer>,
    count: usize,
) -> usize {
    let mut done = 0;
    while done < count {
        let came = within(consumer.receive(count - done, Duration::from_secs(1)))
            .await
            .unwrap();
        let settled = ack(consumer, &came).await.unwrap();
        done += settled
            .iter()
            .filter(|settled| **settled == Settled::Done)
            .count();
    }
    done
}

#[tokio::test]
async fn a_deleted_stream_that_nobody_writes_to_is_reported_too() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let consumer = subscribe(&backend, LEASE).await;
    let before = events(4);
    publish_all(&backend, &before).await;
    ack_some(&consumer, 4).await;
    command(&broker, &["DEL", "orders"]).await;
    assert_eq!(losses(&backend).await, (1, 4));
    assert_eq!(counts(&backend).await.acknowledged, 4);
    assert_eq!(losses(&backend).await, (1, 4));
    // Nothing of what is gone is taken for a duplicate.
    publish_all(&backend, &before).await;
    drain(&consumer, &before).await;
}

#[tokio::test]
async fn a_trimmed_stream_is_counted_and_the_rest_is_delivered() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let all = events(6);
    publish_all(&backend, &all).await;
    command(&broker, &["XTRIM", "orders", "MAXLEN", "2"]).await;
    assert_eq!(losses(&backend).await, (1, 4));
    drop(backend);
    let backend = open(broker.address()).await;
    let consumer = subscribe(&backend, LEASE).await;
    drain(&consumer, &all[4..]).await;
    let counts = counts(&backend).await;
    assert_eq!((counts.published, counts.acknowledged), (2, 2));
}

fn copy(from: &Path, to: &Path) {
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(from.join(".")).arg(to);
    assert!(copy.status().unwrap().success());
}

/// As after a failover to a replica that lacks the end.
#[tokio::test]
async fn the_end_that_a_server_forgot_is_reported_once_and_later_events_come() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let consumer = subscribe(&backend, LEASE).await;
    publish_all(&backend, &events(3)).await;
    assert_eq!(ack_some(&consumer, 3).await, 3);
    let older = tempfile::tempdir().unwrap();
    copy(broker.dir(), older.path());
    let forgotten = events(4);
    publish_all(&backend, &forgotten).await;
    let last = publish(&backend, &forgotten[3]).await.unwrap().position;
    assert_eq!(ack_some(&consumer, 1).await, 1);
    let held = within(consumer.receive(1, Duration::from_secs(1))).await;
    assert_eq!(held.unwrap().len(), 1);
    broker.kill().unwrap();
    std::fs::remove_dir_all(broker.dir()).unwrap();
    copy(older.path(), broker.dir());
    broker.restart().await.unwrap();
    while backend.admin().list().await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(losses(&backend).await, (1, 0));
    let later = events(3);
    for event in &later {
        assert!(
            publish(&backend, event).await.unwrap().position > last,
            "positions go on"
        );
    }
    drain(&consumer, &later).await;
    assert_eq!(losses(&backend).await, (1, 0));
    assert_eq!(counts(&backend).await.unsettled(), 0);
}

#[tokio::test]
async fn positions_grow_although_the_clock_of_the_stream_was_ahead() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let consumer = subscribe(&backend, LEASE).await;
    let all = events(3);
    publish_all(&backend, &all[..1]).await;
    command(&broker, &["XADD", "orders", "99999999999999-0", "f", "x"]).await;
    let ahead = publish(&backend, &all[1]).await.unwrap().position;
    command(&broker, &["DEL", "orders"]).await;
    assert!(publish(&backend, &all[2]).await.unwrap().position > ahead);
    drain(&consumer, &all[2..]).await;
}

#[tokio::test]
async fn the_lost_state_of_a_subscription_costs_no_event() {
    state_is_lost("{orders}:ff:s:all:*").await;
}

#[tokio::test]
async fn the_loss_of_everything_beside_the_stream_costs_no_event() {
    state_is_lost("{orders}:ff:*").await;
}

async fn state_is_lost(pattern: &str) {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let consumer = subscribe(&backend, LEASE).await;
    let before = events(20);
    publish_all(&backend, &before).await;
    ack_some(&consumer, 5).await;
    let held = within(consumer.receive(5, Duration::from_secs(1)))
        .await
        .unwrap();
    assert!(delete_keys(&broker, pattern).await > 0);
    // What it knew is gone: what was held is refused, and comes again.
    let late = ack(&consumer, &held).await.unwrap();
    assert!(
        late.iter().all(|settled| *settled == Settled::Late),
        "{late:?}"
    );
    let after = events(5);
    publish_all(&backend, &after).await;
    let settled: BTreeSet<_> = before[..5].iter().map(Event::id).collect();
    let rest: Vec<Event> = before
        .iter()
        .filter(|e| !settled.contains(e.id()))
        .cloned()
        .collect();
    drain(&consumer, &[rest, after].concat()).await;
    counts(&backend).await;
}

#[tokio::test]
async fn a_deleted_subscription_is_not_made_again() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let consumer = subscribe(&backend, LEASE).await;
    backend
        .admin()
        .delete(&super::stage::all(), true)
        .await
        .unwrap();
    let error = within(consumer.receive(1, Duration::from_millis(10)))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), fanfare_core::ErrorKind::NotFound);
}

#[tokio::test]
async fn what_others_trim_from_their_stream_is_a_loss_only_where_it_was_needed() {
    let broker = server().await;
    let backend = RedisBackend::open(lifecycle(&broker)).await.unwrap();
    let consumer = subscribe(&backend, LEASE).await;
    for json in THEIRS {
        they_publish(&broker, json).await;
    }
    ack_some(&consumer, 2).await;
    assert_eq!(losses(&backend).await, (0, 0));
    command(&broker, &["XTRIM", "source-events", "MAXLEN", "1"]).await;
    assert_eq!(losses(&backend).await, (0, 0), "both were settled");
    counts(&backend).await;
    command(&broker, &["DEL", "source-events"]).await;
    assert_eq!(losses(&backend).await, (1, 0), "of how many is not known");
    assert_eq!(losses(&backend).await, (1, 0));
    // Nobody looked between their event and its end; the consumer saw it.
    they_publish(&broker, THEIRS[0]).await;
    let seen = within(consumer.receive(1, Duration::from_secs(5))).await;
    assert_eq!(seen.unwrap().len(), 1);
    command(&broker, &["DEL", "source-events"]).await;
    assert_eq!(losses(&backend).await, (2, 0));
    counts(&backend).await;
}
