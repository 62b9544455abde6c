//! What only this backend does: bounds and eviction.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::time::Duration;

use fanfare_core::ErrorKind;
use fanfare_core::admin::Counts;
use fanfare_core::backend::Backend;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::data::Data;
use fanfare_core::dead_letter::{DeadLetterFilter, Selection};
use fanfare_core::delivery::{Delivery, Settlement};
use fanfare_core::event::Event;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{Start, SubscriptionSpec};
use fanfare_memory::{MemoryBackend, MemoryConfig};

fn small(max_events: usize) -> Arc<MemoryBackend> {
    MemoryBackend::open(MemoryConfig {
        max_events,
        ..MemoryConfig::default()
    })
}

fn event(event_type: &str) -> Event {
    Event::builder(event_type.parse().unwrap())
        .data(Data::json("{}"))
        .build()
        .unwrap()
}

async fn subscribe(backend: &MemoryBackend, pattern: &str) -> Arc<dyn Consumer> {
    let name: fanfare_core::subscription::SubscriptionName = "all".parse().unwrap();
    let spec = SubscriptionSpec {
        start: Start::Earliest,
        ..SubscriptionSpec::new(name.clone(), PatternSet::parse([pattern]).unwrap())
    };
    backend.admin().put(&spec).await.unwrap();
    backend
        .consume(
            &name,
            Member {
                name: "m".into(),
                kind: MemberKind::Embedded,
            },
        )
        .await
        .unwrap()
}

async fn settle(consumer: &Arc<dyn Consumer>, deliveries: &[Delivery], how: &Settlement) {
    consumer
        .settle(
            deliveries
                .iter()
                .map(|d| (d.receipt, how.clone()))
                .collect(),
        )
        .await
        .unwrap();
}

async fn counts(backend: &MemoryBackend) -> Counts {
    let audited = backend.admin().audit(None).await.unwrap().remove(0);
    assert_eq!(audited.breaches, []);
    assert!(audited.counts.balanced(), "{:?}", audited.counts);
    audited.counts
}

#[tokio::test]
async fn a_full_stream_evicts_what_is_settled_and_refuses_what_is_not() {
    let backend = small(10);
    let consumer = subscribe(&backend, "**").await;
    let events: Vec<Event> = (0..10).map(|_| event("a")).collect();
    backend.publish(&events).await.unwrap();
    let refused = backend
        .publish(&[event("a")])
        .await
        .unwrap()
        .remove(0)
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full);
    let deliveries = consumer.receive(10, Duration::ZERO).await.unwrap();
    // The first stays unsettled: it is kept although later ones go.
    settle(&consumer, &deliveries[1..6], &Settlement::Ack).await;
    for _ in 0..5 {
        backend
            .publish(&[event("a")])
            .await
            .unwrap()
            .remove(0)
            .unwrap();
    }
    assert_eq!(
        backend
            .publish(&[event("a")])
            .await
            .unwrap()
            .remove(0)
            .unwrap_err()
            .kind(),
        ErrorKind::Full
    );
    let counts = counts(&backend).await;
    assert_eq!(
        (
            counts.published,
            counts.acknowledged,
            counts.in_flight,
            counts.waiting
        ),
        (15, 5, 5, 5)
    );
    assert!(
        backend
            .history()
            .unwrap()
            .deliveries(deliveries[0].position)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_long_run_through_a_small_stream_stays_balanced() {
    let backend = small(100);
    let consumer = subscribe(&backend, "keep.*").await;
    for round in 0..500_u32 {
        let kind = if round.is_multiple_of(3) {
            "other"
        } else {
            "keep.this"
        };
        backend
            .publish(&(0..40).map(|_| event(kind)).collect::<Vec<_>>())
            .await
            .unwrap();
        let deliveries = consumer.receive(64, Duration::ZERO).await.unwrap();
        settle(&consumer, &deliveries, &Settlement::Ack).await;
    }
    let counts = counts(&backend).await;
    assert_eq!(
        (counts.published, counts.acknowledged),
        (333 * 40, 333 * 40)
    );
}

#[tokio::test]
async fn a_redriven_event_is_delivered_after_its_eviction() {
    let backend = small(10);
    let consumer = subscribe(&backend, "**").await;
    let first = event("a");
    backend.publish(std::slice::from_ref(&first)).await.unwrap();
    let deliveries = consumer.receive(1, Duration::ZERO).await.unwrap();
    let dead = Settlement::DeadLetter {
        reason: "rejected".into(),
        error: "no".into(),
    };
    settle(&consumer, &deliveries, &dead).await;
    for _ in 0..30 {
        backend.publish(&[event("b")]).await.unwrap();
        let deliveries = consumer.receive(1, Duration::ZERO).await.unwrap();
        settle(&consumer, &deliveries, &Settlement::Ack).await;
    }
    let all = Selection::Filter(DeadLetterFilter::default());
    assert_eq!(
        backend.dead_letters().redrive(&all, 10).await.unwrap().done,
        1
    );
    let deliveries = consumer.receive(10, Duration::ZERO).await.unwrap();
    assert_eq!(deliveries[0].event, first);
    settle(&consumer, &deliveries, &Settlement::Ack).await;
    assert_eq!(counts(&backend).await.acknowledged, 31);
}
