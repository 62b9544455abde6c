//! The mode that loses: what is told when events may be gone, and what it needs of the server.

use std::sync::Arc;
use std::time::Duration;

use fanfare_conformance::broker::{Broker, Durability, Proxy, nats};
use fanfare_core::backend::Backend as _;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::dead_letter::{DeadLetterFilter, Selection};
use fanfare_core::delivery::{Delivery, Settlement};
use fanfare_core::error::ErrorKind;
use fanfare_core::event::Event;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::SubscriptionSpec;
use fanfare_nats::{CoreConfig, NatsConfig, NatsCore};

use super::own::Own;

const WAIT: Duration = Duration::from_secs(10);

fn config(url: String) -> CoreConfig {
    CoreConfig::new(NatsConfig::new(url, "orders"))
}

fn event(event_type: &str) -> Event {
    Event::builder(event_type.parse().unwrap()).build().unwrap()
}

async fn publish(core: &NatsCore, event: &Event) -> Result<(), ErrorKind> {
    let answers = core.publish(std::slice::from_ref(event)).await;
    let answers = answers.map_err(|error| error.kind())?;
    let answer = answers.into_iter().next().unwrap();
    answer.map(drop).map_err(|error| error.kind())
}

async fn listen(core: &NatsCore, name: &str, pattern: &str) -> Arc<dyn Consumer> {
    let patterns = PatternSet::parse([pattern]).unwrap();
    let spec = SubscriptionSpec::new(name.parse().unwrap(), patterns);
    core.admin().put(&spec).await.unwrap();
    let member = Member {
        name: "native".into(),
        kind: MemberKind::Embedded,
    };
    core.consume(&spec.name, member).await.unwrap()
}

async fn one(consumer: &Arc<dyn Consumer>) -> Delivery {
    let came = consumer.receive(1, WAIT).await.unwrap().pop();
    let came = came.unwrap();
    let ack = vec![(came.receipt, Settlement::Ack)];
    consumer.settle(ack).await.unwrap();
    came
}

#[tokio::test]
async fn a_server_without_jetstream_carries_events_and_keeps_no_values() {
    let server = Own::start(|_| String::new()).await;
    let one_process = NatsCore::open(config(server.url(""))).await.unwrap();
    let other = NatsCore::open(config(server.url(""))).await.unwrap();
    let (here, there) = (
        listen(&one_process, "all", "**").await,
        listen(&other, "all", "orders.**").await,
    );
    let sent = event("orders.placed");
    publish(&one_process, &sent).await.unwrap();
    for consumer in [&here, &there] {
        assert_eq!(one(consumer).await.event.id(), sent.id());
    }
    let refused = other.state().get("key").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
    let health = other.admin().health().await;
    assert!(health.ok, "{}", health.detail);
    one_process.close().await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test]
async fn who_may_not_publish_or_listen_is_told_when_it_opens() {
    let users = r#"authorization { users: [
        { user: mute, password: x, permissions: { publish: { deny: "fanfare.c.>" } } }
        { user: deaf, password: x, permissions: { subscribe: { deny: "fanfare.c.>" } } }
    ] }"#;
    let server = Own::start(|_| users.into()).await;
    for who in ["mute:x@", "deaf:x@"] {
        let refused = NatsCore::open(config(server.url(who))).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Forbidden, "{who}: {refused}");
    }
}

#[tokio::test]
async fn a_broken_line_is_told_and_later_events_come() {
    let broker = Broker::start(nats(), Durability::Periodic).await.unwrap();
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let core = NatsCore::open(config(broker.url_at(proxy.address())));
    let core = core.await.unwrap();
    let consumer = listen(&core, "all", "**").await;
    publish(&core, &event("a.b")).await.unwrap();
    one(&consumer).await;
    assert_eq!(core.admin().stats().await.unwrap().losses, 0);
    proxy.reset();
    // What leaves while the line breaks may or may not arrive; it is never called safe.
    let _ = publish(&core, &event("a.b")).await;
    let later = event("a.later");
    while publish(&core, &later).await.is_err() {}
    while one(&consumer).await.event.id() != later.id() {}
    assert!(core.admin().stats().await.unwrap().losses >= 1);
    core.close().await.unwrap();
}

#[tokio::test]
async fn a_full_queue_loses_its_own_events_and_counts_them() {
    let server = Own::start(|_| String::new()).await;
    let small = CoreConfig {
        queue_events: 10,
        ..config(server.url(""))
    };
    let core = NatsCore::open(small).await.unwrap();
    let (slow, quick) = (
        listen(&core, "slow", "**").await,
        listen(&core, "quick", "**").await,
    );
    for _ in 0..25 {
        let sent = event("a.b");
        publish(&core, &sent).await.unwrap();
        assert_eq!(one(&quick).await.event.id(), sent.id());
    }
    let stats = core.admin().stats().await.unwrap();
    assert_eq!((stats.losses, stats.lost), (1, 15));
    for _ in 0..10 {
        one(&slow).await;
    }
    let sent = event("a.b");
    publish(&core, &sent).await.unwrap();
    assert_eq!(one(&slow).await.event.id(), sent.id());
    core.close().await.unwrap();
}

#[tokio::test]
async fn the_oldest_dead_letter_goes_when_there_are_too_many() {
    let server = Own::start(|_| String::new()).await;
    let small = CoreConfig {
        dead_letters: 2,
        ..config(server.url(""))
    };
    let core = NatsCore::open(small).await.unwrap();
    let consumer = listen(&core, "all", "**").await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let sent = event("a.b");
        publish(&core, &sent).await.unwrap();
        ids.push(sent.id().clone());
        let came = consumer.receive(1, WAIT).await.unwrap().pop().unwrap();
        let dead = Settlement::DeadLetter {
            reason: "test".into(),
            error: "no".into(),
        };
        consumer.settle(vec![(came.receipt, dead)]).await.unwrap();
    }
    let all = DeadLetterFilter::default();
    let kept = core.dead_letters().list(&all, None, 10).await.unwrap();
    let kept = kept.items.iter().filter_map(|letter| letter.body.event());
    let kept: Vec<_> = kept.map(|event| event.id().clone()).collect();
    assert_eq!(kept, ids[1..]);
    let name = "all".parse().unwrap();
    assert_eq!(core.admin().get(&name).await.unwrap().counts.dead, 2);
    let all = Selection::Filter(all);
    assert_eq!(core.dead_letters().redrive(&all, 10).await.unwrap().done, 2);
    for id in &ids[1..] {
        assert_eq!(one(&consumer).await.event.id(), id);
    }
    core.close().await.unwrap();
}
