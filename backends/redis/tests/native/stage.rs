//! What the tests stand on: a server of their own, a stream, and short ways to publish and consume.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fanfare_conformance::broker::{Broker, Durability, redis as engine};
use fanfare_core::admin::Counts;
use fanfare_core::backend::{Backend, Published};
use fanfare_core::clock::Clock;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::data::Data;
use fanfare_core::dead_letter::{DeadLetter, DeadLetterFilter};
use fanfare_core::delivery::{Delivery, Settled, Settlement};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};
use fanfare_redis::{RedisBackend, RedisConfig};
use redis::aio::MultiplexedConnection;

/// No call may take longer than this, whatever is broken.
const LIMIT: Duration = Duration::from_secs(8);

pub(crate) async fn server() -> Broker {
    Broker::start(engine(), Durability::Always).await.unwrap()
}

pub(crate) fn config(address: SocketAddr) -> RedisConfig {
    RedisConfig {
        connect_timeout: Duration::from_secs(1),
        response_timeout: Duration::from_secs(1),
        publish_timeout: Duration::from_secs(5),
        ..RedisConfig::new(format!("redis://{address}/"), "orders")
    }
}

pub(crate) async fn open(address: SocketAddr) -> Arc<RedisBackend> {
    RedisBackend::open(config(address)).await.unwrap()
}

pub(crate) fn events(count: usize) -> Vec<Event> {
    let event = |n: usize| {
        let event = Event::builder("orders.placed".parse().unwrap());
        event.data(Data::json(n.to_string())).build().unwrap()
    };
    (0..count).map(event).collect()
}

pub(crate) fn all() -> SubscriptionName {
    "all".parse().unwrap()
}

pub(crate) async fn subscribe(backend: &RedisBackend, lease: Duration) -> Arc<dyn Consumer> {
    let spec = SubscriptionSpec {
        start: Start::Earliest,
        lease,
        ..SubscriptionSpec::new(all(), PatternSet::parse(["**"]).unwrap())
    };
    backend.admin().put(&spec).await.unwrap();
    join(backend).await
}

pub(crate) async fn join(backend: &RedisBackend) -> Arc<dyn Consumer> {
    let member = Member {
        name: "native".into(),
        kind: MemberKind::Embedded,
    };
    backend.consume(&all(), member).await.unwrap()
}

pub(crate) async fn publish(backend: &RedisBackend, event: &Event) -> Result<Published> {
    let publishing = backend.publish(std::slice::from_ref(event));
    let answers = within(publishing).await?;
    answers.into_iter().next().unwrap()
}

pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    let clock = Clock::system();
    tokio::select! {
        done = work => done,
        () = clock.sleep(LIMIT) => panic!("a call took longer than {LIMIT:?}"),
    }
}

pub(crate) async fn publish_surely(backend: &RedisBackend, event: &Event) {
    while let Err(error) = publish(backend, event).await {
        let passing = matches!(error.kind(), ErrorKind::Unknown | ErrorKind::Unavailable);
        assert!(passing, "{error:?}");
        tokio::task::yield_now().await;
    }
}

pub(crate) async fn ack(
    consumer: &Arc<dyn Consumer>,
    deliveries: &[Delivery],
) -> Result<Vec<Settled>> {
    let acks = deliveries.iter().map(|d| (d.receipt, Settlement::Ack));
    within(consumer.settle(acks.collect())).await
}

pub(crate) async fn drain(consumer: &Arc<dyn Consumer>, expected: &[Event]) {
    let mut left: BTreeSet<String> = expected.iter().map(|e| e.id().to_string()).collect();
    let clock = Clock::system();
    let until = clock.now() + Duration::from_secs(30);
    while !left.is_empty() {
        assert!(clock.now() < until, "{} events never came", left.len());
        let Ok(came) = within(consumer.receive(100, Duration::from_millis(300))).await else {
            tokio::task::yield_now().await;
            continue;
        };
        // An acknowledgement that got no answer may have counted: the delivery came all the same.
        let settled = ack(consumer, &came).await;
        for (n, delivery) in came.iter().enumerate() {
            let counted = settled
                .as_ref()
                .is_ok_and(|settled| settled[n] == Settled::Done);
            if counted || settled.is_err() {
                left.remove(&delivery.event.id().to_string());
            }
        }
    }
}

pub(crate) async fn counts(backend: &RedisBackend) -> Counts {
    let audited = backend.admin().audit(None).await.unwrap().remove(0);
    assert_eq!(audited.breaches, []);
    assert!(audited.counts.balanced(), "{:?}", audited.counts);
    audited.counts
}

pub(crate) async fn client(broker: &Broker) -> MultiplexedConnection {
    let client = redis::Client::open(broker.url()).unwrap();
    let limit = Some(LIMIT);
    let settings = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(limit)
        .set_response_timeout(limit);
    let connection = client.get_multiplexed_async_connection_with_config(&settings);
    connection.await.unwrap()
}

/// One command, by a client that knows nothing of us.
pub(crate) async fn command(broker: &Broker, words: &[&str]) -> redis::Value {
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(*word);
    }
    command
        .query_async(&mut client(broker).await)
        .await
        .unwrap()
}

pub(crate) async fn refused(config: RedisConfig) -> Error {
    match within(RedisBackend::open(config)).await {
        Ok(_) => panic!("a connection that must be refused was not"),
        Err(error) => error,
    }
}

pub(crate) async fn dead_letters(backend: &RedisBackend) -> Vec<DeadLetter> {
    let everything = DeadLetterFilter::default();
    let listed = backend.dead_letters().list(&everything, None, 100).await;
    listed.unwrap().items
}
