//! What the tests stand on: a stream in a directory of its own, and short ways to publish and consume.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fanfare_core::backend::{Backend, Published};
use fanfare_core::clock::Clock;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::data::Data;
use fanfare_core::delivery::{Delivery, Settled, Settlement};
use fanfare_core::event::Event;
use fanfare_core::id::EventId;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;
use fanfare_sqlite::{SqliteBackend, SqliteConfig};

/// A config with a clock that stands still and a small reserve.
pub(crate) fn config(dir: &Path) -> SqliteConfig {
    SqliteConfig {
        clock: Clock::manual(Timestamp::from_millis(1_800_000_000_000)),
        reserve_bytes: 64 * 1024,
        ..SqliteConfig::new(dir)
    }
}

pub(crate) async fn open(dir: &Path) -> Arc<SqliteBackend> {
    SqliteBackend::open(config(dir)).await.unwrap()
}

pub(crate) fn name(text: &str) -> SubscriptionName {
    SubscriptionName::parse(text).unwrap()
}

pub(crate) fn spec(text: &str, pattern: &str) -> SubscriptionSpec {
    SubscriptionSpec {
        start: Start::Earliest,
        ..SubscriptionSpec::new(name(text), PatternSet::parse([pattern]).unwrap())
    }
}

/// Event number `n`: the same every time.
pub(crate) fn event(n: u64) -> Event {
    keyed(n, None)
}

pub(crate) fn keyed(n: u64, key: Option<&str>) -> Event {
    let event_type = if n.is_multiple_of(2) {
        "test.even"
    } else {
        "test.odd"
    };
    let mut builder = Event::builder(event_type.parse().unwrap())
        .id(EventId::derived(&[&n.to_string()]))
        .source("/test")
        .data(Data::json(format!("{{\"n\":{n}}}").into_bytes()));
    if let Some(key) = key {
        builder = builder.key(key);
    }
    builder.build().unwrap()
}

pub(crate) async fn publish(
    backend: &SqliteBackend,
    numbers: impl Iterator<Item = u64>,
) -> Vec<Published> {
    let events: Vec<Event> = numbers.map(event).collect();
    let mut published = Vec::new();
    for chunk in events.chunks(500) {
        let answers = backend.publish(chunk).await.unwrap();
        published.extend(answers.into_iter().map(Result::unwrap));
    }
    published
}

pub(crate) async fn join(backend: &SqliteBackend, subscription: &str) -> Arc<dyn Consumer> {
    let member = Member {
        name: "test".into(),
        kind: MemberKind::Embedded,
    };
    backend.consume(&name(subscription), member).await.unwrap()
}

/// What is there now.
pub(crate) async fn receive(consumer: &Arc<dyn Consumer>, max: usize) -> Vec<Delivery> {
    consumer.receive(max, Duration::ZERO).await.unwrap()
}

pub(crate) async fn settle(consumer: &Arc<dyn Consumer>, delivery: &Delivery, how: Settlement) {
    let answers = consumer
        .settle(vec![(delivery.receipt, how)])
        .await
        .unwrap();
    assert_eq!(answers, [Settled::Done]);
}

/// Acknowledges everything there is; answers the ids in the order they came.
pub(crate) async fn drain(consumer: &Arc<dyn Consumer>) -> Vec<String> {
    let mut ids = Vec::new();
    loop {
        let deliveries = receive(consumer, 100).await;
        if deliveries.is_empty() {
            return ids;
        }
        ids.extend(deliveries.iter().map(|d| d.event.id().to_string()));
        let acks = deliveries.iter().map(|d| (d.receipt, Settlement::Ack));
        let answers = consumer.settle(acks.collect()).await.unwrap();
        assert!(answers.iter().all(|a| *a == Settled::Done));
    }
}

/// The audit holds for every subscription.
pub(crate) async fn assert_balanced(backend: &SqliteBackend) {
    for audited in backend.admin().audit(None).await.unwrap() {
        assert!(audited.counts.balanced(), "{audited:?}");
        assert!(audited.breaches.is_empty(), "{audited:?}");
        let info = backend.admin().get(&audited.name).await.unwrap();
        assert_eq!(
            info.counts, audited.counts,
            "the quick count and the slow one"
        );
    }
}

/// A copy of the directory as it is now: what another process would find if we died.
pub(crate) fn crash(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

pub(crate) fn ids(numbers: impl Iterator<Item = u64>) -> Vec<String> {
    numbers.map(|n| event(n).id().to_string()).collect()
}
