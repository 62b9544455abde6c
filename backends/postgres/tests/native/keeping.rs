//! Keeping house: partitions ahead, the net below them, and what retention removes.

use fanfare_conformance::broker::Broker;
use fanfare_core::backend::Backend;
use fanfare_core::error::ErrorKind;
use fanfare_postgres::{PostgresBackend, PostgresConfig};
use tokio_postgres::Client;

use super::stage::*;

async fn number(client: &Client, text: &str) -> i64 {
    client.query_one(text, &[]).await.unwrap().get(0)
}

async fn publish_some(backend: &PostgresBackend, count: usize) {
    let events: Vec<_> = (0..count).map(|n| event(&n.to_string())).collect();
    for answer in backend.publish(&events).await.unwrap() {
        answer.unwrap();
    }
}

/// Makes the next position the one after `last`.
async fn skip_to(client: &Client, last: i64) {
    let skip = format!("SELECT setval('fanfare_orders.log_pos', {last})");
    client.batch_execute(&skip).await.unwrap();
}

async fn remove_all(client: &Client) {
    let trim = "SELECT more FROM fanfare_orders.trim(9223372036854775807, 7)";
    while client.query_one(trim, &[]).await.unwrap().get(0) {}
}

async fn opened(broker: &Broker) -> (std::sync::Arc<PostgresBackend>, Client) {
    (open(broker.address()).await, sql(broker, "SELECT 1").await)
}

#[tokio::test]
async fn partitions_are_made_ahead_and_go_when_nobody_needs_them() {
    let broker = server().await;
    let (backend, client) = opened(&broker).await;
    publish_some(&backend, 10).await;
    // Nobody made the second partition in time.
    skip_to(&client, (1 << 20) - 5).await;
    publish_some(&backend, 20).await;
    let rest = "SELECT count(*) FROM fanfare_orders.log_rest";
    assert_eq!(number(&client, rest).await, 15);
    client
        .batch_execute("SELECT fanfare_orders.extend_log()")
        .await
        .unwrap();
    let ahead = number(&client, "SELECT max(low) FROM fanfare_orders.partition").await;
    skip_to(&client, ahead - 1).await;
    publish_some(&backend, 5).await;
    assert_eq!(number(&client, rest).await, 15);
    let member = member(&backend).await;
    assert_eq!(take(&member, 35).await.len(), 35);
    client
        .batch_execute("SELECT fanfare_orders.seal()")
        .await
        .unwrap();
    let sealed = "SELECT events FROM fanfare_orders.partition WHERE name = 'log_1'";
    assert_eq!(number(&client, sealed).await, 15);
    let stats = backend.admin().stats().await.unwrap();
    assert_eq!(stats.events, 35);
    remove_all(&client).await;
    assert_eq!(backend.admin().stats().await.unwrap().events, 0);
    client
        .batch_execute("SELECT fanfare_orders.drop_emptied()")
        .await
        .unwrap();
    let gone = "SELECT count(*) FROM fanfare_orders.partition WHERE name = 'log_1'";
    assert_eq!(number(&client, gone).await, 0);
    publish_some(&backend, 3).await;
    assert_eq!(take(&member, 3).await.len(), 3);
    let audited = backend.admin().audit(None).await.unwrap().remove(0);
    assert_eq!(audited.breaches, []);
    assert!(audited.counts.balanced(), "{:?}", audited.counts);
}

#[tokio::test]
async fn what_somebody_needs_is_kept() {
    let broker = server().await;
    let (backend, client) = opened(&broker).await;
    let member = member(&backend).await;
    publish_some(&backend, 30).await;
    assert_eq!(take(&member, 20).await.len(), 20);
    remove_all(&client).await;
    assert_eq!(backend.admin().stats().await.unwrap().events, 10);
    assert_eq!(take(&member, 10).await.len(), 10);
    let audited = backend.admin().audit(None).await.unwrap().remove(0);
    assert_eq!(audited.breaches, []);
    assert!(audited.counts.balanced(), "{:?}", audited.counts);
}

#[tokio::test]
async fn a_full_stream_has_no_room_for_events_of_a_callers_transaction_either() {
    let broker = server().await;
    let config = PostgresConfig {
        max_bytes: 20_000,
        ..config(broker.address())
    };
    let backend = PostgresBackend::open(config).await.unwrap();
    let member = member(&backend).await;
    let mut client = sql(&broker, "SELECT 1").await;
    let events = [event(&"x".repeat(15_000))];
    let transaction = client.transaction().await.unwrap();
    backend.publish_in(&transaction, &events).await.unwrap();
    transaction.commit().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let more = [event(&"y".repeat(15_000))];
    let full = backend.publish_in(&transaction, &more).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Full, "{full}");
    // The transaction is still good for something else.
    let room = "SELECT fanfare_orders.publish('orders.placed')";
    transaction.batch_execute(room).await.unwrap();
    transaction.commit().await.unwrap();
    take(&member, 2).await;
    let transaction = client.transaction().await.unwrap();
    backend.publish_in(&transaction, &more).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(take(&member, 1).await[0].len(), 15_000);
}

#[tokio::test]
async fn a_partition_is_made_while_a_publisher_has_a_transaction_open() {
    let broker = server().await;
    let (backend, client) = opened(&broker).await;
    publish_some(&backend, 1).await;
    let publisher = sql(&broker, &format!("BEGIN; {}", function("early"))).await;
    skip_to(&client, (1 << 20) - 5).await;
    let made = number(&client, "SELECT fanfare_orders.extend_log()::bigint").await;
    assert_eq!(made, 1);
    publisher.batch_execute("COMMIT").await.unwrap();
}
