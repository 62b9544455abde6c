//! When an event may be read: each trap of a cursor over positions that are drawn before the commit.

use fanfare_conformance::broker::{Fault, Proxy};
use fanfare_core::backend::Backend;
use fanfare_core::error::ErrorKind;
use fanfare_core::subscription::Start;
use fanfare_postgres::{PostgresBackend, PostgresConfig};

use super::stage::*;

#[tokio::test]
async fn nothing_is_read_past_a_transaction_that_may_still_commit() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let member = member(&backend).await;
    publish(&backend, &event("first")).await.unwrap();
    assert_eq!(take(&member, 1).await, ["first"]);
    for publishing in [insert("early"), function("early")] {
        let early = sql(&broker, &format!("BEGIN; {publishing}")).await;
        publish(&backend, &event("late")).await.unwrap();
        nothing(&member).await;
        early.batch_execute("COMMIT").await.unwrap();
        assert_eq!(take(&member, 2).await, ["early", "late"]);
    }
}

/// Its event gets an earlier position than one that is there already, and is published later.
#[tokio::test]
async fn what_commits_after_a_latest_subscription_is_delivered_to_it() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    publish(&backend, &event("before")).await.unwrap();
    let early = sql(&broker, &format!("BEGIN; {}", function("early"))).await;
    publish(&backend, &event("late")).await.unwrap();
    let member = member_from(&backend, Start::Latest).await;
    early.batch_execute("COMMIT").await.unwrap();
    // The event that cannot be told from a later one comes too.
    assert_eq!(take(&member, 2).await, ["early", "late"]);
    nothing(&member).await;
}

#[tokio::test]
async fn what_is_rolled_back_is_passed_by() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let member = member(&backend).await;
    let gone = sql(&broker, &format!("BEGIN; {}", function("gone"))).await;
    publish(&backend, &event("late")).await.unwrap();
    nothing(&member).await;
    gone.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(take(&member, 1).await, ["late"]);
}

#[tokio::test]
async fn a_savepoint_that_is_rolled_back_frees_nothing() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let member = member(&backend).await;
    let early = [
        "BEGIN",
        &function("a"),
        "SAVEPOINT s",
        &function("gone"),
        "ROLLBACK TO s",
    ];
    let early = sql(&broker, &early.join(";")).await;
    publish(&backend, &event("late")).await.unwrap();
    nothing(&member).await;
    early.batch_execute(&function("b")).await.unwrap();
    early.batch_execute("COMMIT").await.unwrap();
    assert_eq!(take(&member, 3).await, ["a", "late", "b"]);
}

#[tokio::test]
async fn a_prepared_transaction_is_waited_for_even_after_a_crash() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let member = member(&backend).await;
    let prepared = format!("BEGIN; {}; PREPARE TRANSACTION 'two'", function("early"));
    drop(sql(&broker, &prepared).await);
    publish(&backend, &event("late")).await.unwrap();
    nothing(&member).await;
    broker.restart().await.unwrap();
    publish_surely(&backend, &event("later")).await;
    nothing(&member).await;
    sql(&broker, "COMMIT PREPARED 'two'").await;
    assert_eq!(take(&member, 3).await, ["early", "late", "later"]);
}

#[tokio::test]
async fn positions_that_are_drawn_again_after_a_crash_are_read() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let member = member(&backend).await;
    publish(&backend, &event("first")).await.unwrap();
    assert_eq!(take(&member, 1).await, ["first"]);
    // A rollback flushes nothing: the server forgets that these were drawn.
    let draw =
        "BEGIN; SELECT nextval('fanfare_orders.log_pos') FROM generate_series(1, 100); ROLLBACK";
    sql(&broker, draw).await;
    broker.restart().await.unwrap();
    let texts: Vec<_> = (0..5).map(|n| n.to_string()).collect();
    for text in &texts {
        publish_surely(&backend, &event(text)).await;
    }
    assert_eq!(take(&member, 5).await, texts);
}

#[tokio::test]
async fn what_was_read_is_there_after_a_crash() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let member = member(&backend).await;
    publish(&backend, &event("first")).await.unwrap();
    let careless = sql(&broker, "SET synchronous_commit = off").await;
    for publishing in [insert("bypassing"), function("by function")] {
        careless.batch_execute(&publishing).await.unwrap();
    }
    let read = take(&member, 3).await;
    broker.restart().await.unwrap();
    let after = sql(&broker, "SELECT 1").await;
    let kept = after.query_one("SELECT count(*) FROM fanfare_orders.log", &[]);
    assert_eq!(kept.await.unwrap().get::<_, i64>(0), 3, "{read:?}");
}

#[tokio::test]
async fn the_locks_of_another_database_hold_nothing_back() {
    let broker = server().await;
    sql(&broker, "CREATE DATABASE shop").await;
    let shop = format!("postgres://postgres@{}/shop", broker.address());
    let config = PostgresConfig::new(shop.as_str(), "orders");
    let backend = PostgresBackend::open(config.clone()).await.unwrap();
    publish(&backend, &event("first")).await.unwrap();
    backend.close().await.unwrap();
    // A copy gives its sequence the same number as ours. It waits for the sessions that just ended.
    let copying = sql(&broker, "SELECT 1").await;
    while copying
        .batch_execute("CREATE DATABASE other TEMPLATE shop")
        .await
        .is_err()
    {}
    let other = session(&format!("postgres://postgres@{}/other", broker.address())).await;
    let held = format!("BEGIN; {}", function("elsewhere"));
    other.batch_execute(&held).await.unwrap();
    let backend = PostgresBackend::open(config).await.unwrap();
    let member = member(&backend).await;
    let gap = session(&shop).await;
    let gap_sql = format!("BEGIN; {}; ROLLBACK", function("gone"));
    gap.batch_execute(&gap_sql).await.unwrap();
    publish(&backend, &event("second")).await.unwrap();
    assert_eq!(take(&member, 2).await, ["first", "second"]);
}

#[tokio::test]
async fn a_sequence_that_hands_out_blocks_is_refused() {
    let broker = server().await;
    open(broker.address()).await.close().await.unwrap();
    sql(&broker, "ALTER SEQUENCE fanfare_orders.log_pos CACHE 10").await;
    let refused = PostgresBackend::open(config(broker.address())).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_standby_is_refused() {
    let broker = server().await;
    open(broker.address()).await.close().await.unwrap();
    broker.kill().unwrap();
    std::fs::write(broker.dir().join("data/standby.signal"), "").unwrap();
    broker.restart().await.unwrap();
    let refused = PostgresBackend::open(config(broker.address())).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert!(refused.to_string().contains("standby"), "{refused}");
}

#[tokio::test]
async fn a_sequence_behind_the_log_is_mended_and_reported() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    for n in 0..20 {
        publish(&backend, &event(&n.to_string())).await.unwrap();
    }
    backend.close().await.unwrap();
    // As after a restore that lacked the sequence.
    sql(&broker, "SELECT setval('fanfare_orders.log_pos', 3)").await;
    let backend = open(broker.address()).await;
    let member = member(&backend).await;
    let later = event("later");
    publish_surely(&backend, &later).await;
    let took = take(&member, 21).await;
    assert_eq!(took[20], "later");
    let reports = sql(&broker, "SELECT 1").await;
    let reports = reports.query_one("SELECT count(*) FROM fanfare_orders.incident", &[]);
    assert_eq!(reports.await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn another_process_leads_when_the_leader_falls_silent() {
    let broker = server().await;
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let silent = open(proxy.address()).await;
    publish(&silent, &event("first")).await.unwrap();
    let other = open(broker.address()).await;
    let member = member(&other).await;
    assert_eq!(take(&member, 1).await, ["first"]);
    proxy.set(Fault::Blackhole);
    // Only a leader finds out that nothing fills this gap.
    let gap = format!("BEGIN; {}; ROLLBACK", function("gone"));
    sql(&broker, &gap).await;
    publish(&other, &event("second")).await.unwrap();
    assert_eq!(take(&member, 1).await, ["second"]);
}

#[tokio::test]
async fn a_close_hands_the_lead_over_at_once() {
    let broker = server().await;
    let first = open(broker.address()).await;
    publish(&first, &event("first")).await.unwrap();
    let second = open(broker.address()).await;
    let member = member(&second).await;
    take(&member, 1).await;
    first.close().await.unwrap();
    let free = sql(&broker, "SELECT 1").await;
    let led = "SELECT leader IS NULL OR until > clock_timestamp() + interval '500 ms' FROM fanfare_orders.horizon";
    assert!(free.query_one(led, &[]).await.unwrap().get::<_, bool>(0));
    sql(&broker, &format!("BEGIN; {}; ROLLBACK", function("gone"))).await;
    publish(&second, &event("second")).await.unwrap();
    assert_eq!(take(&member, 1).await, ["second"]);
}
