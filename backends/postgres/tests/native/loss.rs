//! A stream, its events or a subscription that somebody deleted: nothing that is there is lost, and
//! what is gone is reported once.

use std::collections::BTreeSet;
use std::time::Duration;

use fanfare_core::backend::Backend;
use fanfare_core::delivery::{Settled, Settlement};
use fanfare_core::error::ErrorKind;
use fanfare_postgres::PostgresBackend;

use super::stage::{
    event, member, nothing, open, publish_surely, server, sql, take, text_of, within,
};

/// How often something was found gone, and how many events.
async fn losses(backend: &PostgresBackend) -> (u64, u64) {
    let stats = within(backend.admin().stats()).await.unwrap();
    (stats.losses, stats.lost)
}

async fn publish(backend: &PostgresBackend, texts: &[&str]) {
    for text in texts {
        publish_surely(backend, &event(text)).await;
    }
}

async fn require_balance(backend: &PostgresBackend) {
    for audited in within(backend.admin().audit(None)).await.unwrap() {
        assert!(audited.counts.balanced(), "{audited:?}");
        assert_eq!(audited.breaches, []);
    }
}

#[tokio::test]
async fn a_deleted_schema_is_made_again_and_later_events_come() {
    let broker = server().await;
    let (backend, other) = (open(broker.address()).await, open(broker.address()).await);
    let member = member(&backend).await;
    publish(&backend, &["1", "2", "3"]).await;
    take(&member, 2).await;
    let before = within(other.history().unwrap().head()).await.unwrap();
    sql(&broker, "DROP SCHEMA fanfare_orders CASCADE").await;
    publish(&other, &["4", "5"]).await;
    publish(&backend, &["6"]).await;
    // What is gone may still come from memory; what was published later comes in any case.
    while take(&member, 1).await != ["4"] {}
    assert_eq!(take(&member, 2).await, ["5", "6"]);
    nothing(&member).await;
    assert_eq!(losses(&backend).await, (1, 0), "how many is not known");
    assert_eq!(losses(&other).await, (1, 0));
    let after = within(other.history().unwrap().head()).await.unwrap();
    assert!(after > before, "positions go on");
    require_balance(&backend).await;
}

#[tokio::test]
async fn events_that_others_removed_are_counted_once_and_later_ones_come() {
    let broker = server().await;
    let (backend, other) = (open(broker.address()).await, open(broker.address()).await);
    let member = member(&backend).await;
    publish(&backend, &["1", "2", "3", "4", "5"]).await;
    take(&member, 3).await;
    within(backend.history().unwrap().head()).await.unwrap();
    sql(&broker, "TRUNCATE fanfare_orders.log").await;
    assert_eq!(losses(&other).await, (1, 5));
    assert_eq!(losses(&backend).await, (1, 5));
    publish(&backend, &["6"]).await;
    // What is gone may still come from memory; what was published later comes in any case.
    while take(&member, 1).await != ["6"] {}
    require_balance(&backend).await;
    sql(
        &broker,
        "DELETE FROM fanfare_orders.log WHERE pos = (SELECT min(pos) FROM fanfare_orders.log)",
    )
    .await;
    assert_eq!(losses(&backend).await.0, 2, "the oldest is gone");
    assert_eq!(losses(&other).await.0, 2);
    require_balance(&backend).await;
}

#[tokio::test]
async fn a_log_emptied_right_after_its_first_event_is_reported_although_more_came() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let member = member(&backend).await;
    publish(&backend, &["1"]).await;
    assert_eq!(take(&member, 1).await, ["1"]);
    sql(&broker, "TRUNCATE fanfare_orders.log").await;
    publish(&backend, &["2"]).await;
    assert_eq!(take(&member, 1).await, ["2"]);
    assert_eq!(losses(&backend).await, (1, 1));
    require_balance(&backend).await;
}

#[tokio::test]
async fn the_lost_state_of_a_subscription_costs_no_event() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let member = member(&backend).await;
    let texts: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    for text in &texts {
        publish_surely(&backend, &event(text)).await;
    }
    let mut rest: BTreeSet<String> = texts.into_iter().collect();
    for text in take(&member, 5).await {
        rest.remove(&text);
    }
    let held = within(member.receive(5, Duration::from_secs(1)))
        .await
        .unwrap();
    assert!(!held.is_empty());
    sql(
        &broker,
        "TRUNCATE fanfare_orders.subscription, fanfare_orders.lease, fanfare_orders.waiting, \
         fanfare_orders.story, fanfare_orders.lane, fanfare_orders.tally",
    )
    .await;
    let acks = held.iter().map(|d| (d.receipt, Settlement::Ack)).collect();
    let late = within(member.settle(acks)).await.unwrap();
    assert!(
        late.iter().all(|settled| *settled == Settled::Late),
        "{late:?}"
    );
    publish(&backend, &["later"]).await;
    rest.insert("later".into());
    while !rest.is_empty() {
        for text in take(&member, 1).await {
            rest.remove(&text);
        }
    }
    require_balance(&backend).await;
}

#[tokio::test]
async fn a_deleted_subscription_is_not_made_again() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let member = member(&backend).await;
    publish(&backend, &["1"]).await;
    let held = within(member.receive(1, Duration::from_secs(1)))
        .await
        .unwrap();
    assert_eq!(held.first().map(text_of), Some("1".into()));
    let name = "all".parse().unwrap();
    within(backend.admin().delete(&name, true)).await.unwrap();
    let error = within(member.receive(1, Duration::ZERO)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}
