//! Servers that are killed or stopped, connections that break, members that go silent.

use std::time::Duration;

use fanfare_conformance::broker::{Fault, Proxy};
use fanfare_core::backend::Backend;
use fanfare_core::delivery::Settled;
use fanfare_core::error::ErrorKind;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{Start, SubscriptionSpec};
use tokio::sync::watch;

use super::stage::{
    ack, all, counts, drain, events, join, open, publish, publish_surely, server, subscribe, within,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_server_is_killed() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let consumer = subscribe(&backend, Duration::from_secs(2)).await;
    let events = events(200);
    let (progress, mut published) = watch::channel(0);
    let publishing = async {
        for event in &events {
            publish_surely(&backend, event).await;
            progress.send_modify(|n| *n += 1);
        }
    };
    let killing = async {
        for round in 0..4 {
            published.wait_for(|n| *n >= 10 + 45 * round).await.unwrap();
            broker.kill().unwrap();
            broker.restart().await.unwrap();
        }
    };
    tokio::join!(publishing, killing, drain(&consumer, &events));
    assert_eq!(counts(&backend).await.published, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_connections_are_replaced() {
    let broker = server().await;
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let backend = open(proxy.address()).await;
    let consumer = subscribe(&backend, Duration::from_secs(2)).await;
    let events = events(100);
    let (progress, mut published) = watch::channel(0);
    let publishing = async {
        for event in &events {
            publish_surely(&backend, event).await;
            progress.send_modify(|n| *n += 1);
        }
    };
    let breaking = async {
        for round in 0..12 {
            published.wait_for(|n| *n >= 4 + 8 * round).await.unwrap();
            match round % 4 {
                0 => proxy.cut(),
                1 => proxy.reset(),
                2 => proxy.set(Fault::BreakAfter(2_000)),
                _ => proxy.set(Fault::Delay(Duration::from_millis(10))),
            }
        }
        proxy.set(Fault::None);
    };
    tokio::join!(publishing, breaking, drain(&consumer, &events));
    assert_eq!(counts(&backend).await.published, 100);
}

#[tokio::test]
async fn a_publish_into_silence_is_unknown_and_repeating_it_is_safe() {
    let broker = server().await;
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let backend = open(proxy.address()).await;
    let event = &events(1)[0];
    proxy.set(Fault::Blackhole);
    let error = publish(&backend, event).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown);
    assert!(!within(backend.admin().health()).await.ok);
    proxy.set(Fault::None);
    proxy.reset();
    publish_surely(&backend, event).await;
    assert!(publish(&backend, event).await.unwrap().duplicate);
}

#[tokio::test]
async fn a_stopped_server_holds_nobody_beyond_the_limits() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let consumer = subscribe(&backend, Duration::from_secs(2)).await;
    broker.pause().unwrap();
    let refused = publish(&backend, &events(1)[0]).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unknown);
    assert!(
        within(consumer.receive(1, Duration::from_millis(100)))
            .await
            .is_err()
    );
    assert!(within(backend.admin().list()).await.is_err());
    broker.resume().unwrap();
    let events = events(3);
    for event in &events {
        publish_surely(&backend, event).await;
    }
    drain(&consumer, &events).await;
}

#[tokio::test]
async fn another_process_takes_over_within_the_lease() {
    let broker = server().await;
    let (dying, heir) = (open(broker.address()).await, open(broker.address()).await);
    let lease = Duration::from_millis(400);
    let consumer = subscribe(&dying, lease).await;
    let events = events(5);
    for event in &events {
        publish_surely(&dying, event).await;
    }
    let held = within(consumer.receive(10, Duration::from_secs(1)))
        .await
        .unwrap();
    assert!(!held.is_empty());
    // Never settled, never extended, never closed: as if its process had died.
    drain(&join(&heir).await, &events).await;
    let late = ack(&consumer, &held).await.unwrap();
    assert!(
        late.iter().all(|settled| *settled != Settled::Done),
        "{late:?}"
    );
    assert_eq!(counts(&heir).await.acknowledged, 5);
}

#[tokio::test]
async fn a_waiting_member_hears_at_once_that_a_key_is_free() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let spec = SubscriptionSpec {
        start: Start::Earliest,
        ordered: true,
        ..SubscriptionSpec::new(all(), PatternSet::parse(["**"]).unwrap())
    };
    backend.admin().put(&spec).await.unwrap();
    let consumer = join(&backend).await;
    for event in events(20) {
        let event = event.to_builder().key("a").build().unwrap();
        publish_surely(&backend, &event).await;
    }
    let wait = Duration::from_secs(2);
    let mut came = within(consumer.receive(1, wait)).await.unwrap();
    let handling = async {
        for _ in 1..20 {
            // The next one is waited for before the key is free.
            let (next, acked) = tokio::join!(consumer.receive(1, wait), ack(&consumer, &came));
            assert_eq!(acked.unwrap(), [Settled::Done]);
            came = next.unwrap();
        }
    };
    // Twenty waits that run out take much longer.
    within(handling).await;
    assert_eq!(came.len(), 1);
}
