//! What somebody deletes under us. That a queue is made again is among the tests of the suite.

use std::time::Duration;

use fanfare_amqp::AmqpBackend;
use fanfare_core::backend::Backend;
use fanfare_core::clock::Clock;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{SubscriptionName, SubscriptionSpec};
use lapin::options::ExchangeDeleteOptions;

use super::own::{config, event, join, publish, server, stranger, take};

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

async fn publish_surely(backend: &AmqpBackend) {
    let until = Clock::system().now() + PATIENCE;
    let event = event();
    while let Err(error) = publish(backend, event.clone()).await {
        assert!(Clock::system().now() < until, "not published: {error}");
    }
}

async fn broadcast(backend: &AmqpBackend) -> std::sync::Arc<dyn Consumer> {
    let name = SubscriptionName::parse("here").unwrap();
    let everything = PatternSet::parse(["**"]).unwrap();
    let spec = SubscriptionSpec {
        ephemeral: true,
        ..SubscriptionSpec::new(name.clone(), everything)
    };
    backend.admin().put(&spec).await.unwrap();
    let member = Member {
        name: "test".into(),
        kind: MemberKind::Embedded,
    };
    backend.consume(&name, member).await.unwrap()
}

#[tokio::test]
async fn an_exchange_deleted_under_us_is_made_again_and_its_loss_told_once() {
    let broker = server().await;
    let open = || AmqpBackend::open(config(&broker, "orders"));
    let (one, other) = (open().await.unwrap(), open().await.unwrap());
    let (durable, passing) = (join(&one).await, broadcast(&one).await);
    publish(&one, event()).await.unwrap();
    take(&*durable, 1).await;
    take(&*passing, 1).await;
    let (_connection, channel) = stranger(&broker).await;
    for times in 1..=2 {
        let options = ExchangeDeleteOptions::default();
        let deleted = channel.exchange_delete("orders".into(), options);
        deleted.await.unwrap();
        publish_surely(&one).await;
        publish_surely(&other).await;
        take(&*durable, 2).await;
        take(&*passing, 2).await;
        let told = other.admin().stats().await.unwrap().losses;
        assert_eq!(told, times);
    }
    one.close().await.unwrap();
    other.close().await.unwrap();
}
