//! A log that nobody follows for a while, because the one who does cannot get back to it.

use fanfare_conformance::broker::{Broker, Fault, Proxy};
use fanfare_core::backend::Backend;
use fanfare_core::error::ErrorKind;
use fanfare_core::history::EventQuery;
use tokio_postgres::Client;

use super::stage::*;

/// Lets nobody draw from this sequence, which whoever opens the log does in the end.
const HOLD: &str = "BEGIN; ALTER SEQUENCE fanfare_orders.state_version NO CYCLE";
/// Server processes that wait for it.
const WAITING: &str = "SELECT pid FROM pg_locks WHERE NOT granted \
                       AND relation = 'fanfare_orders.state_version'::regclass";

/// Ends every connection through the proxy; answers who holds the log closed, and the server process
/// of the connection that waits for that in the middle of opening it again.
async fn stop_following(broker: &Broker, proxy: &Proxy) -> (Client, i32) {
    let holder = sql(broker, HOLD).await;
    proxy.cut();
    let opening = async {
        loop {
            if let Some(row) = holder.query(WAITING, &[]).await.unwrap().first() {
                break row.get(0);
            }
        }
    };
    let process = within(opening).await;
    (holder, process)
}

#[tokio::test]
async fn a_line_that_falls_silent_while_the_log_is_opened_again_is_given_up() {
    let broker = server().await;
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let backend = open(proxy.address()).await;
    let member = member(&backend).await;
    publish(&backend, &event("first")).await.unwrap();
    assert_eq!(take(&member, 1).await, ["first"]);
    let (holder, process) = stop_following(&broker, &proxy).await;
    proxy.set(Fault::Blackhole);
    // The answer comes, and vanishes.
    holder.batch_execute("COMMIT").await.unwrap();
    let left = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)";
    within(async {
        while !holder
            .query_one(left, &[&process])
            .await
            .unwrap()
            .get::<_, bool>(0)
        {}
    })
    .await;
    proxy.set(Fault::None);
    publish_surely(&backend, &event("second")).await;
    assert_eq!(take(&member, 1).await, ["second"]);
}

#[tokio::test]
async fn history_behind_a_log_that_nobody_follows_is_an_error() {
    let broker = server().await;
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let backend = open(proxy.address()).await;
    publish(&backend, &event("first")).await.unwrap();
    let history = backend.history().unwrap();
    let query = EventQuery {
        limit: 10,
        ..EventQuery::default()
    };
    assert_eq!(history.events(&query).await.unwrap().items.len(), 1);
    let (holder, _) = stop_following(&broker, &proxy).await;
    sql(&broker, &function("second")).await;
    let error = within(history.events(&query)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("nobody follows"), "{error}");
    holder.batch_execute("COMMIT").await.unwrap();
    publish(&backend, &event("third")).await.unwrap();
    assert_eq!(within(history.events(&query)).await.unwrap().items.len(), 3);
}
