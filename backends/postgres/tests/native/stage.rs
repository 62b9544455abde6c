//! A private server, the backend on it, SQL beside it, and a member that takes what comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fanfare_conformance::broker::{Broker, Durability, postgres};
use fanfare_core::backend::{Backend, Published};
use fanfare_core::clock::Clock;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::data::Data;
use fanfare_core::delivery::{Delivery, Settlement};
use fanfare_core::error::{ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};
use fanfare_postgres::{PostgresBackend, PostgresConfig};
use tokio_postgres::{Client, NoTls};

/// No call may take longer than this, whatever is broken.
pub(super) const LIMIT: Duration = Duration::from_secs(8);
/// How long what must come may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one watches that something does not come.
const WATCH: Duration = Duration::from_millis(300);

pub(super) async fn server() -> Broker {
    Broker::start(postgres(), Durability::Always).await.unwrap()
}

pub(super) fn config(address: SocketAddr) -> PostgresConfig {
    PostgresConfig {
        connect_timeout: Duration::from_secs(1),
        response_timeout: Duration::from_secs(1),
        publish_timeout: Duration::from_secs(5),
        ..PostgresConfig::new(format!("postgres://postgres@{address}/postgres"), "orders")
    }
}

pub(super) async fn open(address: SocketAddr) -> Arc<PostgresBackend> {
    PostgresBackend::open(config(address)).await.unwrap()
}

/// A session of its own.
pub(super) async fn session(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A session that runs one line of SQL.
pub(super) async fn sql(broker: &Broker, text: &str) -> Client {
    let client = session(&broker.url()).await;
    client.batch_execute(text).await.unwrap();
    client
}

/// SQL that publishes an event with this text by a plain `INSERT`, past every function.
pub(super) fn insert(text: &str) -> String {
    format!(
        "INSERT INTO fanfare_orders.log (source, type, id, attrs, data) SELECT \
         (SELECT number FROM fanfare_orders.source LIMIT 1), \
         (SELECT number FROM fanfare_orders.type LIMIT 1), \
         fanfare_orders.id_bytes(fanfare_orders.new_id()), \
         fanfare_orders.attributes(2, NULL, NULL, 'text/plain', NULL), '{text}'::bytea"
    )
}

/// SQL that publishes an event with this text by the function for that.
pub(super) fn function(text: &str) -> String {
    format!("SELECT fanfare_orders.publish_text('orders.placed', '{text}')")
}

pub(super) fn event(text: &str) -> Event {
    let event = Event::builder("orders.placed".parse().unwrap());
    event.data(Data::text(text)).build().unwrap()
}

pub(super) async fn publish(backend: &PostgresBackend, event: &Event) -> Result<Published> {
    let publishing = backend.publish(std::slice::from_ref(event));
    let answers = within(publishing).await?;
    answers.into_iter().next().unwrap()
}

/// Publishes again and again until the event is known to be there.
pub(super) async fn publish_surely(backend: &PostgresBackend, event: &Event) {
    while let Err(error) = publish(backend, event).await {
        let passing = matches!(error.kind(), ErrorKind::Unknown | ErrorKind::Unavailable);
        assert!(passing, "{error:?}");
    }
}

pub(super) async fn within<T>(work: impl Future<Output = T>) -> T {
    let clock = Clock::system();
    tokio::select! {
        done = work => done,
        () = clock.sleep(LIMIT) => panic!("a call took longer than {LIMIT:?}"),
    }
}

/// A member of a subscription to everything.
pub(super) async fn member(backend: &PostgresBackend) -> Arc<dyn Consumer> {
    member_from(backend, Start::Earliest).await
}

/// The same from another start.
pub(super) async fn member_from(backend: &PostgresBackend, start: Start) -> Arc<dyn Consumer> {
    member_of(backend, "all", start).await
}

/// The same of a subscription with this name.
pub(super) async fn member_of(
    backend: &PostgresBackend,
    name: &str,
    start: Start,
) -> Arc<dyn Consumer> {
    let name: SubscriptionName = name.parse().unwrap();
    let spec = SubscriptionSpec {
        start,
        lease: Duration::from_mins(1),
        ..SubscriptionSpec::new(name.clone(), PatternSet::parse(["**"]).unwrap())
    };
    backend.admin().put(&spec).await.unwrap();
    let member = Member {
        name: "native".into(),
        kind: MemberKind::External,
    };
    backend.consume(&name, member).await.unwrap()
}

pub(super) fn text_of(delivery: &Delivery) -> String {
    String::from_utf8(delivery.event.bytes().to_vec()).unwrap()
}

/// Receives and acknowledges so many, in their order; a server that is away is waited for.
pub(super) async fn take(member: &Arc<dyn Consumer>, count: usize) -> Vec<String> {
    let clock = Clock::system();
    let until = clock.now() + PATIENCE;
    let mut texts = Vec::new();
    while texts.len() < count {
        assert!(clock.now() < until, "only {texts:?} came of {count}");
        let Ok(came) = within(member.receive(count - texts.len(), WATCH)).await else {
            continue;
        };
        texts.extend(came.iter().map(text_of));
        let acks = came.iter().map(|d| (d.receipt, Settlement::Ack));
        // What is not acknowledged comes again after its lease, beyond this test.
        let _ = within(member.settle(acks.collect())).await;
    }
    texts
}

/// That nothing comes for a while.
pub(super) async fn nothing(member: &Arc<dyn Consumer>) {
    let came = within(member.receive(1, WATCH)).await.unwrap();
    assert!(came.is_empty(), "{:?} came too early", text_of(&came[0]));
}
