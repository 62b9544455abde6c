//! Ids reach what is published inside a handler or a scope without being passed.

use fanfare_bus::{Bus, Context};
use fanfare_core::event::Event;
use fanfare_core::id::EventId;

use crate::harness::{bus, event, seen};

#[tokio::test]
async fn ids_travel_through_a_handler() {
    let (bus, _) = bus();
    let (tx, mut events) = seen();
    bus.subscribe("first", "orders.placed")
        .handle(|bus: Bus| async move {
            // In a deeper call, and after waiting.
            tokio::task::yield_now().await;
            bus.publish(event("orders.billed")).await.map(|_| ())
        })
        .await
        .unwrap();
    bus.subscribe("second", "orders.billed")
        .handle(move |event: Event| {
            let tx = tx.clone();
            async move { tx.send(event).await.unwrap() }
        })
        .await
        .unwrap();
    let placed = event("orders.placed")
        .id(EventId::parse("e1").unwrap())
        .extension("userid", "u1")
        .extension("sessionid", "s1")
        .extension("requestid", "r1")
        .extension("traceparent", "00-aa-bb-01");
    bus.publish(placed).await.unwrap();
    let billed = events.next().await;
    for (name, value) in [
        ("userid", "u1"),
        ("sessionid", "s1"),
        ("requestid", "r1"),
        ("traceparent", "00-aa-bb-01"),
        ("causationid", "e1"),
        ("correlationid", "e1"),
    ] {
        assert_eq!(billed.extension_str(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn a_scope_sets_ids_and_explicit_ones_win() {
    let (bus, _) = bus();
    let (tx, mut events) = seen();
    bus.subscribe("all", "*")
        .handle(move |event: Event| {
            let tx = tx.clone();
            async move { tx.send(event).await.unwrap() }
        })
        .await
        .unwrap();
    Context::current()
        .user("u1")
        .request("r1")
        .scope(async {
            bus.publish(event("a").extension("userid", "u2"))
                .await
                .unwrap();
            bus.publish(event("a").build().unwrap()).await.unwrap();
        })
        .await;
    bus.publish(event("a")).await.unwrap();
    let ids = |event: &Event| {
        ["userid", "requestid", "causationid"].map(|n| event.extension_str(n).map(str::to_owned))
    };
    let mut seen = events.take(3).await;
    seen.sort_by_key(|event| event.extension_str("userid").map(str::to_owned));
    assert_eq!(ids(&seen[0]), [None, None, None]);
    assert_eq!(ids(&seen[1]), [Some("u1".into()), Some("r1".into()), None]);
    assert_eq!(ids(&seen[2]), [Some("u2".into()), Some("r1".into()), None]);
}
