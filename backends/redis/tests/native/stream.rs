//! A stream that others write to, delete, or that is full.

use std::time::Duration;

use fanfare_conformance::broker::Broker;
use fanfare_core::backend::Backend;
use fanfare_core::data::Data;
use fanfare_core::dead_letter::DeadBody;
use fanfare_redis::{RedisBackend, RedisConfig};

use super::stage::{
    all, command, config, counts, dead_letters, drain, events, join, open, publish_surely, server,
    subscribe, within,
};

#[tokio::test]
async fn an_entry_that_is_no_frame_becomes_a_dead_letter() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let consumer = subscribe(&backend, Duration::from_secs(30)).await;
    command(&broker, &["XADD", "orders", "*", "f", "no frame"]).await;
    let events = events(1);
    publish_surely(&backend, &events[0]).await;
    drain(&consumer, &events).await;
    let letters = dead_letters(&backend).await;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!(letter.reason, "undecodable");
    assert!(matches!(&letter.body, DeadBody::Raw(bytes) if bytes == "no frame"));
    let counts = counts(&backend).await;
    assert_eq!((counts.published, counts.dead), (2, 1));
}

#[tokio::test]
async fn later_events_come_after_the_stream_was_deleted() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let consumer = subscribe(&backend, Duration::from_secs(30)).await;
    let before = events(3);
    for event in &before {
        publish_surely(&backend, event).await;
    }
    drain(&consumer, &before).await;
    command(&broker, &["DEL", "orders"]).await;
    let after = events(3);
    for event in &after {
        publish_surely(&backend, event).await;
    }
    drain(&consumer, &after).await;
}

/// Each settlement over HTTP asks for it: behind an outage of some thousand events that took longer than
/// the leases, so that all came again, one by one.
#[tokio::test]
async fn the_options_of_a_subscription_are_told_without_reading_the_stream() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let _consumer = subscribe(&backend, Duration::from_secs(30)).await;
    publish_surely(&backend, &events(1)[0]).await;
    command(&broker, &["CONFIG", "RESETSTAT"]).await;
    backend.admin().get(&all()).await.unwrap();
    assert!(commands(&broker).await.contains("cmdstat_xrange"));
    command(&broker, &["CONFIG", "RESETSTAT"]).await;
    let spec = backend.admin().spec(&all()).await.unwrap();
    assert_eq!(spec.lease, Duration::from_secs(30));
    assert!(!commands(&broker).await.contains("cmdstat_xrange"));
}

#[tokio::test]
async fn who_only_publishes_reads_nothing_back_and_who_comes_again_misses_nothing() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let before = events(5);
    for event in &before {
        publish_surely(&backend, event).await;
    }
    assert!(!commands(&broker).await.contains("cmdstat_xread"));
    let consumer = subscribe(&backend, Duration::from_secs(30)).await;
    drain(&consumer, &before).await;
    let followed = events(5);
    for event in &followed {
        publish_surely(&backend, event).await;
    }
    drain(&consumer, &followed).await;
    assert!(commands(&broker).await.contains("cmdstat_xread"));
    drop(consumer);
    let mut alone = Vec::new();
    let resting = async {
        loop {
            command(&broker, &["CONFIG", "RESETSTAT"]).await;
            let more = events(2);
            for event in &more {
                publish_surely(&backend, event).await;
            }
            alone.extend(more);
            if !commands(&broker).await.contains("cmdstat_xread") {
                return;
            }
        }
    };
    within(resting).await;
    let consumer = join(&backend).await;
    let later = events(5);
    for event in &later {
        publish_surely(&backend, event).await;
    }
    alone.extend(later);
    drain(&consumer, &alone).await;
}

/// What the server has run since it was last asked to forget it.
async fn commands(broker: &Broker) -> String {
    let said = command(broker, &["INFO", "commandstats"]).await;
    redis::from_redis_value(said).unwrap()
}

#[tokio::test]
async fn a_full_stream_forgets_what_is_settled_and_its_books_balance() {
    let broker = server().await;
    let config = RedisConfig {
        max_bytes: 64 << 10,
        ..config(broker.address())
    };
    let backend = RedisBackend::open(config).await.unwrap();
    let consumer = subscribe(&backend, Duration::from_secs(30)).await;
    for _ in 0..20 {
        let mut events = events(10);
        for event in &mut events {
            *event = event
                .to_builder()
                .data(Data::binary(vec![7; 1_000]))
                .build()
                .unwrap();
            publish_surely(&backend, event).await;
        }
        drain(&consumer, &events).await;
    }
    let counts = counts(&backend).await;
    assert_eq!((counts.published, counts.acknowledged), (200, 200));
    let stats = backend.admin().stats().await.unwrap();
    assert!(stats.bytes <= 64 << 10 && stats.events < 70, "{stats:?}");
}
