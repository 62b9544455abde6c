//! A server that dies or falls silent.

use std::sync::Arc;
use std::time::Duration;

use fanfare_conformance::broker::{Fault, Proxy};
use fanfare_core::backend::Backend;
use fanfare_core::clock::Clock;
use fanfare_core::error::ErrorKind;
use fanfare_core::subscription::Start;

use super::stage::*;

#[tokio::test]
async fn what_was_acknowledged_outlives_the_server() {
    const EVENTS: usize = 300;
    const DEATHS: usize = 3;
    let broker = Arc::new(server().await);
    let backend = open(broker.address()).await;
    let member = member(&backend).await;
    let publishing = tokio::spawn({
        let backend = backend.clone();
        async move {
            for n in 0..EVENTS {
                publish_surely(&backend, &event(&n.to_string())).await;
            }
        }
    });
    let clock = Clock::system();
    let mut texts = Vec::new();
    for _ in 0..DEATHS {
        texts.extend(take(&member, EVENTS / 10).await);
        broker.restart().await.unwrap();
    }
    let numbers = |texts: &[String]| {
        let distinct: std::collections::BTreeSet<usize> =
            texts.iter().map(|text| text.parse().unwrap()).collect();
        distinct.len()
    };
    let until = clock.now() + Duration::from_mins(1);
    while numbers(&texts) < EVENTS {
        assert!(clock.now() < until, "{} of {EVENTS} came", numbers(&texts));
        texts.extend(take(&member, 1).await);
    }
    publishing.await.unwrap();
    backend.close().await.unwrap();
}

#[tokio::test]
async fn no_call_waits_for_a_server_that_is_silent() {
    let broker = server().await;
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let backend = open(proxy.address()).await;
    let member = member(&backend).await;
    publish(&backend, &event("first")).await.unwrap();
    proxy.set(Fault::Blackhole);
    let lost = publish(&backend, &event("lost")).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Unknown, "{lost}");
    assert!(within(backend.state().get("a")).await.is_err());
    assert!(within(backend.admin().list()).await.is_err());
    assert!(!within(backend.admin().health()).await.ok);
    proxy.set(Fault::None);
    proxy.cut();
    publish_surely(&backend, &event("second")).await;
    assert!(take(&member, 2).await.contains(&"second".to_owned()));
}

#[tokio::test]
async fn what_was_read_ahead_is_not_passed_over_where_its_claim_fails() {
    let broker = server().await;
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let backend = open(proxy.address()).await;
    let other = member_of(&backend, "other", Start::Earliest).await;
    let member = member(&backend).await;
    let texts = ["first", "second", "third"];
    for text in texts {
        publish(&backend, &event(text)).await.unwrap();
    }
    // Now all of them are in memory.
    assert_eq!(take(&other, texts.len()).await, texts);
    proxy.set(Fault::Blackhole);
    let failed = within(member.receive(texts.len(), Duration::from_secs(5))).await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Unknown);
    // The claim after it meets no other fault.
    proxy.set(Fault::None);
    assert_eq!(take(&member, texts.len()).await, texts);
}

#[tokio::test]
async fn a_connection_that_breaks_in_a_publish_leaves_it_unknown_and_repeating_it_is_safe() {
    let broker = server().await;
    let proxy = Proxy::start(broker.address()).await.unwrap();
    let backend = open(proxy.address()).await;
    let member = member(&backend).await;
    // It stands behind this lock when the connection breaks.
    let lock = sql(&broker, "BEGIN; LOCK fanfare_orders.log IN SHARE MODE").await;
    let first = event("first");
    let (answer, ()) = tokio::join!(publish(&backend, &first), async {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        while lock.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {}
        proxy.cut();
        lock.batch_execute("COMMIT").await.unwrap();
    });
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unknown);
    publish_surely(&backend, &first).await;
    publish(&backend, &event("second")).await.unwrap();
    assert_eq!(take(&member, 2).await, ["first", "second"]);
}

#[tokio::test]
async fn a_stopped_server_goes_on_where_it_was() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let member = member(&backend).await;
    publish(&backend, &event("first")).await.unwrap();
    broker.pause().unwrap();
    let error = publish(&backend, &event("lost")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown);
    broker.resume().unwrap();
    publish_surely(&backend, &event("second")).await;
    let took = take(&member, 2).await;
    assert_eq!(took[0], "first");
}
