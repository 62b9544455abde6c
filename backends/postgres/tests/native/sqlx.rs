//! Publishing in transactions of sqlx.

use std::net::SocketAddr;
use std::time::Duration;

use fanfare_core::delivery::Settlement;
use fanfare_core::error::ErrorKind;
use fanfare_core::event::Event;
use fanfare_postgres::{PostgresBackend, PostgresConfig};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, PgConnection};

use super::pooler::pooler;
use super::stage::*;

async fn connect(address: SocketAddr) -> PgConnection {
    let options = PgConnectOptions::new_without_pgpass()
        .host(&address.ip().to_string())
        .port(address.port())
        .username("postgres")
        .database("postgres")
        .ssl_mode(PgSslMode::Disable);
    options.connect().await.unwrap()
}

/// Publishes one event of this key in a transaction that locks the key first.
async fn publish_of_key(backend: &PostgresBackend, client: &mut PgConnection, text: &str) {
    let mut transaction = client.begin().await.unwrap();
    let keys = ["b", "key", "a"];
    let locked = backend.lock_keys_sqlx(&mut transaction, &keys).await;
    locked.unwrap();
    let event = [event(text)];
    let published = backend.publish_in_sqlx(&mut transaction, &event).await;
    published.unwrap();
    transaction.commit().await.unwrap();
    backend.committed();
}

#[tokio::test]
async fn a_transaction_of_sqlx_decides_about_its_events() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let member = member(&backend).await;
    let mut client = connect(broker.address()).await;
    let mut transaction = client.begin().await.unwrap();
    let gone = [event("gone")];
    let published = backend.publish_in_sqlx(&mut transaction, &gone).await;
    assert!(!published.unwrap()[0].duplicate);
    transaction.rollback().await.unwrap();
    let mut transaction = client.begin().await.unwrap();
    let kept = Event::builder("orders.placed".parse().unwrap())
        .id("no uuid".parse().unwrap())
        .key("k")
        .subject("s")
        .build()
        .unwrap();
    let kept = [kept, event("second")];
    let first = backend.publish_in_sqlx(&mut transaction, &kept).await;
    let again = backend.publish_in_sqlx(&mut transaction, &kept[..1]).await;
    let (first, again) = (first.unwrap(), again.unwrap());
    assert_eq!((first[0].duplicate, again[0].duplicate), (false, true));
    assert_eq!(first[0].position, again[0].position);
    transaction.commit().await.unwrap();
    backend.committed();
    let mut came = Vec::new();
    while came.len() < kept.len() {
        let some = within(member.receive(2, Duration::from_secs(1))).await;
        came.extend(some.unwrap());
    }
    let positions = came.iter().map(|delivery| Some(delivery.position));
    let expected = first.iter().map(|published| published.position);
    assert_eq!(positions.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    let acks = came.iter().map(|d| (d.receipt, Settlement::Ack)).collect();
    within(member.settle(acks)).await.unwrap();
    let events: Vec<_> = came.into_iter().map(|delivery| delivery.event).collect();
    assert_eq!(events, kept);
    nothing(&member).await;
}

#[tokio::test]
async fn transactions_of_sqlx_that_lock_a_key_publish_one_after_the_other() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let member = member(&backend).await;
    let mut earlier = connect(broker.address()).await;
    let mut later = connect(broker.address()).await;
    let mut transaction = earlier.begin().await.unwrap();
    let locked = backend.lock_keys_sqlx(&mut transaction, &["key"]).await;
    locked.unwrap();
    let watching = sql(&broker, "SELECT 1").await;
    let first = async {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        while watching
            .query_one(waits, &[])
            .await
            .unwrap()
            .get::<_, i64>(0)
            == 0
        {}
        let events = [event("first")];
        let published = backend.publish_in_sqlx(&mut transaction, &events).await;
        published.unwrap();
        transaction.commit().await.unwrap();
    };
    let second = Box::pin(publish_of_key(&backend, &mut later, "second"));
    within(async { tokio::join!(first, second) }).await;
    assert_eq!(take(&member, 2).await, ["first", "second"]);
}

#[tokio::test]
async fn sqlx_publishes_through_a_pooler_that_changes_connections() {
    const EVENTS: usize = 7;
    let broker = server().await;
    let address = pooler(broker.address()).await;
    let config = PostgresConfig {
        pooler: true,
        ..config(address)
    };
    let backend = PostgresBackend::open(config).await.unwrap();
    let member = member(&backend).await;
    let mut client = connect(address).await;
    let texts: Vec<_> = (0..EVENTS).map(|n| n.to_string()).collect();
    for text in &texts {
        publish_of_key(&backend, &mut client, text).await;
    }
    assert_eq!(take(&member, EVENTS).await, texts);
}

#[tokio::test]
async fn what_sqlx_is_refused_has_an_error_of_its_kind() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let role = "CREATE ROLE shop LOGIN";
    sql(&broker, role).await;
    let mut client = connect(broker.address()).await;
    let mut transaction = client.begin().await.unwrap();
    let become_shop = sqlx::query("SET LOCAL ROLE shop");
    become_shop.execute(&mut *transaction).await.unwrap();
    let events = [event("refused")];
    let refused = backend.publish_in_sqlx(&mut transaction, &events).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Forbidden, "{refused}");
    transaction.rollback().await.unwrap();
    let mut transaction = client.begin().await.unwrap();
    broker.kill().unwrap();
    let lost = within(backend.publish_in_sqlx(&mut transaction, &events)).await;
    let lost = lost.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Unavailable, "{lost}");
}
