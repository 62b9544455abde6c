//! A server of the test's own, a plain client of it, and the least that a test does with a backend.

use std::path::Path;
use std::time::Duration;

use fanfare_amqp::{AmqpBackend, AmqpConfig};
use fanfare_conformance::broker::{Broker, Durability, rabbitmq};
use fanfare_core::backend::Backend;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::delivery::{Delivery, Settlement};
use fanfare_core::error::Result;
use fanfare_core::event::Event;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};
use lapin::{Channel, Connection, ConnectionProperties};

/// How often a receive may find nothing.
const PATIENCE: usize = 20;

/// One without further settings.
pub(super) async fn server() -> Broker {
    let started = Broker::start(rabbitmq(), Durability::Periodic).await;
    started.unwrap()
}

/// The same started again, with these lines among its settings; they may name files in its directory.
pub(super) async fn set(broker: &Broker, settings: impl Fn(&Path) -> String) {
    let file = broker.dir().join("rabbitmq.conf");
    let there = std::fs::read_to_string(&file).unwrap();
    let all = format!("{there}{}", settings(broker.dir()));
    std::fs::write(&file, all).unwrap();
    broker.restart().await.unwrap();
}

pub(super) fn config(broker: &Broker, stream: &str) -> AmqpConfig {
    AmqpConfig::new(broker.url(), stream)
}

/// A channel of nobody's, for what others may do. It lives as long as its connection.
pub(super) async fn stranger(broker: &Broker) -> (Connection, Channel) {
    let properties = ConnectionProperties::default();
    let connection = Connection::connect(&broker.url(), properties).await;
    let connection = connection.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

pub(super) fn name() -> SubscriptionName {
    SubscriptionName::parse("all").unwrap()
}

pub(super) fn spec() -> SubscriptionSpec {
    let everything = PatternSet::parse(["**"]).unwrap();
    SubscriptionSpec {
        start: Start::Earliest,
        ..SubscriptionSpec::new(name(), everything)
    }
}

pub(super) fn event() -> Event {
    let event = Event::builder("orders.placed".parse().unwrap());
    event.build().unwrap()
}

pub(super) async fn publish(backend: &AmqpBackend, event: Event) -> Result<()> {
    let answers = backend.publish(&[event]).await?;
    answers.into_iter().next().unwrap().map(drop)
}

pub(super) async fn join(backend: &AmqpBackend) -> std::sync::Arc<dyn Consumer> {
    backend.admin().put(&spec()).await.unwrap();
    let member = Member {
        name: "test".into(),
        kind: MemberKind::Embedded,
    };
    backend.consume(&name(), member).await.unwrap()
}

/// So many events, acknowledged.
pub(super) async fn take(consumer: &dyn Consumer, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    for _ in 0..PATIENCE {
        let wait = Duration::from_secs(1);
        let came = consumer.receive(count - taken.len(), wait).await.unwrap();
        let acks = came.iter().map(|d| (d.receipt, Settlement::Ack));
        consumer.settle(acks.collect()).await.unwrap();
        taken.extend(came);
        if taken.len() == count {
            return taken;
        }
    }
    panic!("{} of {count} events came", taken.len())
}
