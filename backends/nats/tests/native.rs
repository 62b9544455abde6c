//! What only a real nats-server shows: deaths of the server under load, what others delete, and what it
//! refuses.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fanfare_conformance::broker::{Broker, Durability, nats};
use fanfare_core::backend::Backend;
use fanfare_core::consumer::{Member, MemberKind};
use fanfare_core::delivery::Settlement;
use fanfare_core::event::Event;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};
use fanfare_nats::{NatsBackend, NatsConfig};
use tokio::sync::watch;

const EVENTS: usize = 3_000;
const KILLS: usize = 5;

fn spec(name: &str) -> SubscriptionSpec {
    let patterns = PatternSet::parse(["**"]).unwrap();
    SubscriptionSpec {
        start: Start::Earliest,
        lease: Duration::from_secs(2),
        ..SubscriptionSpec::new(SubscriptionName::parse(name).unwrap(), patterns)
    }
}

fn member() -> Member {
    Member {
        name: "test".into(),
        kind: MemberKind::Embedded,
    }
}

/// Publishes until each event is acknowledged, whatever happens meanwhile; tells how many are.
async fn publish_all(
    backend: Arc<NatsBackend>,
    acknowledged: watch::Sender<usize>,
) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for _ in 0..EVENTS / 10 {
        let events: Vec<Event> = (0..10)
            .map(|_| Event::builder("a.b".parse().unwrap()).build().unwrap())
            .collect();
        for event in &events {
            ids.insert(event.id().to_string());
        }
        let mut left = events;
        while !left.is_empty() {
            let answers = backend.publish(&left).await.unwrap();
            let answers = answers.into_iter().zip(left);
            left = answers
                .filter_map(|(answer, event)| answer.is_err().then_some(event))
                .collect();
        }
        acknowledged.send_replace(ids.len());
    }
    ids
}

/// Takes and acknowledges until `count` different events came.
async fn take(backend: Arc<NatsBackend>, name: &str, count: usize) -> BTreeSet<String> {
    let name = SubscriptionName::parse(name).unwrap();
    let mut seen = BTreeSet::new();
    let consumer = loop {
        if let Ok(consumer) = backend.consume(&name, member()).await {
            break consumer;
        }
    };
    while seen.len() < count {
        let Ok(came) = consumer.receive(100, Duration::from_secs(1)).await else {
            continue;
        };
        seen.extend(came.iter().map(|d| d.event.id().to_string()));
        let all: Vec<_> = came.iter().map(|d| (d.receipt, Settlement::Ack)).collect();
        // What is not settled for a dead server comes again.
        let _ = consumer.settle(all).await;
    }
    seen
}

/// Takes and acknowledges in small steps until all have come to some member, and nothing comes any more.
async fn take_what_comes(backend: Arc<NatsBackend>, arrived: Arc<AtomicUsize>) -> Vec<String> {
    let name = SubscriptionName::parse("all").unwrap();
    let consumer = backend.consume(&name, member()).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let came = consumer
            .receive(7, Duration::from_millis(500))
            .await
            .unwrap();
        let so_far = arrived.fetch_add(came.len(), Ordering::Relaxed);
        if came.is_empty() {
            if so_far >= EVENTS {
                return seen;
            }
            continue;
        }
        let all = came.iter().map(|d| (d.receipt, Settlement::Ack)).collect();
        consumer.settle(all).await.unwrap();
        seen.extend(came.iter().map(|d| d.event.id().to_string()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_under_load_loses_nothing_and_the_books_balance() {
    let broker = Broker::start(nats(), Durability::Periodic).await.unwrap();
    let open = || NatsBackend::open(NatsConfig::new(broker.url(), "killed"));
    let (one, other) = (open().await.unwrap(), open().await.unwrap());
    one.admin().put(&spec("all")).await.unwrap();
    let (acknowledged, mut acknowledging) = watch::channel(0);
    let publishing = tokio::spawn(publish_all(one.clone(), acknowledged));
    let taking = tokio::spawn(take(other.clone(), "all", EVENTS));
    for kill in 1..=KILLS {
        let so_many = EVENTS * kill / (KILLS + 1);
        acknowledging.wait_for(|n| *n >= so_many).await.unwrap();
        broker.restart().await.unwrap();
    }
    let published = publishing.await.unwrap();
    let taken = taking.await.unwrap();
    assert_eq!(published, taken);
    let name = SubscriptionName::parse("all").unwrap();
    // What was taken and not settled for a dead server comes again; then everything is settled.
    let left = one.consume(&name, member()).await.unwrap();
    while one.admin().get(&name).await.unwrap().counts.unsettled() > 0 {
        let came = left.receive(100, Duration::from_secs(1)).await.unwrap();
        let all = came.iter().map(|d| (d.receipt, Settlement::Ack)).collect();
        left.settle(all).await.unwrap();
    }
    let audited = one.admin().audit(Some(&name)).await.unwrap();
    assert!(audited[0].breaches.is_empty(), "{audited:?}");
    assert_eq!(audited[0].counts.acknowledged, EVENTS as u64);
    one.close().await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test]
async fn a_subscription_that_two_processes_change_at_once_loses_no_change() {
    let broker = Broker::start(nats(), Durability::Periodic).await.unwrap();
    let open = || NatsBackend::open(NatsConfig::new(broker.url(), "raced"));
    let (one, other) = (open().await.unwrap(), open().await.unwrap());
    one.admin().put(&spec("all")).await.unwrap();
    let publishing = tokio::spawn(publish_all(one.clone(), watch::Sender::new(0)));
    let arrived = Arc::new(AtomicUsize::new(0));
    let first = tokio::spawn(take_what_comes(one.clone(), arrived.clone()));
    let second = tokio::spawn(take_what_comes(other.clone(), arrived));
    let published = publishing.await.unwrap();
    let mut taken = first.await.unwrap();
    taken.extend(second.await.unwrap());
    assert_eq!(taken.len(), EVENTS, "some came twice or not at all");
    assert_eq!(taken.into_iter().collect::<BTreeSet<_>>(), published);
    one.close().await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test]
async fn a_purged_stream_is_told_once_and_the_books_balance_again() {
    let broker = Broker::start(nats(), Durability::Periodic).await.unwrap();
    let open = || NatsBackend::open(NatsConfig::new(broker.url(), "purged"));
    let (one, other) = (open().await.unwrap(), open().await.unwrap());
    one.admin().put(&spec("all")).await.unwrap();
    let name = SubscriptionName::parse("all").unwrap();
    let consumer = other.consume(&name, member()).await.unwrap();
    let event = || Event::builder("a.b".parse().unwrap()).build().unwrap();
    let events: Vec<_> = (0..10).map(|_| event()).collect();
    one.publish(&events).await.unwrap();
    let came = consumer.receive(6, Duration::from_secs(10)).await.unwrap();
    let half = came.iter().take(3).map(|d| (d.receipt, Settlement::Ack));
    consumer.settle(half.collect()).await.unwrap();

    let client = async_nats::connect(broker.url()).await.unwrap();
    let purge = "$JS.API.STREAM.PURGE.fanfare_purged";
    client.request(purge, "".into()).await.unwrap();
    let stats = one.admin().stats().await.unwrap();
    assert_eq!((stats.losses, stats.lost, stats.events), (1, 10, 0));
    // What was handed out is settled as ever.
    let rest = came.iter().skip(3).map(|d| (d.receipt, Settlement::Ack));
    consumer.settle(rest.collect()).await.unwrap();
    let later = event();
    one.publish(std::slice::from_ref(&later)).await.unwrap();
    let mut last = Vec::new();
    while !last.contains(later.id()) {
        let came = consumer.receive(10, Duration::from_secs(10)).await.unwrap();
        let all = came.iter().map(|d| (d.receipt, Settlement::Ack)).collect();
        consumer.settle(all).await.unwrap();
        last.extend(came.iter().map(|d| d.event.id().clone()));
    }
    for backend in [&one, &other] {
        let audited = backend.admin().audit(Some(&name)).await.unwrap();
        assert!(audited[0].breaches.is_empty(), "{audited:?}");
        assert!(audited[0].counts.balanced(), "{audited:?}");
        assert_eq!(backend.admin().stats().await.unwrap().losses, 1);
    }
    one.close().await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test]
async fn subscriptions_whose_state_is_deleted_are_made_again_where_they_were() {
    let broker = Broker::start(nats(), Durability::Periodic).await.unwrap();
    let backend = NatsBackend::open(NatsConfig::new(broker.url(), "bare"))
        .await
        .unwrap();
    backend.admin().put(&spec("all")).await.unwrap();
    let name = SubscriptionName::parse("all").unwrap();
    let consumer = backend.consume(&name, member()).await.unwrap();
    let event = || Event::builder("a.b".parse().unwrap()).build().unwrap();
    backend.publish(&[event(), event()]).await.unwrap();
    let mut seen = 0;
    while seen < 2 {
        let came = consumer.receive(10, Duration::from_secs(10)).await.unwrap();
        let all = came.iter().map(|d| (d.receipt, Settlement::Ack)).collect();
        consumer.settle(all).await.unwrap();
        seen += came.len();
    }
    let client = async_nats::connect(broker.url()).await.unwrap();
    let delete = "$JS.API.STREAM.DELETE.fanfarestate_bare";
    client.request(delete, "".into()).await.unwrap();
    let later = event();
    backend.publish(std::slice::from_ref(&later)).await.unwrap();
    let came = loop {
        match consumer.receive(10, Duration::from_secs(10)).await {
            Ok(came) if !came.is_empty() => break came,
            _ => {}
        }
    };
    let ids: Vec<_> = came.iter().map(|d| d.event.id().clone()).collect();
    assert_eq!(ids, [later.id().clone()]);
    backend.close().await.unwrap();
}

#[cfg(test)]
mod native {
    mod core;
    pub(super) mod own;
    mod refusals;
    mod wire;
}
