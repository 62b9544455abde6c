//! Publishing: validation, batches, the queue, waiting for outcomes, emitting.

use std::time::Duration;

use fanfare_bus::Bus;
use fanfare_bus::handler::Outcome;
use fanfare_core::data::Data;
use fanfare_core::delivery::Settlement;
use fanfare_core::error::ErrorKind;
use fanfare_core::event::Event;
use fanfare_core::id::EventId;

use crate::harness::{backend, bus, clock, event, seen, settle_down, within};

#[tokio::test]
async fn a_repeated_event_is_a_duplicate() {
    let (bus, _) = bus();
    let event = event("orders.placed").build().unwrap();
    let first = bus.publish(&event).await.unwrap();
    let second = bus.publish(&event).await.unwrap();
    assert!(!first.duplicate && second.duplicate);
    assert_eq!(first.position, second.position);
    assert_eq!((bus.stats().published, bus.stats().duplicates), (1, 1));
}

#[tokio::test]
async fn too_large_data_are_refused_before_the_backend() {
    let (bus, _) = bus();
    let large = event("a").data(Data::binary(vec![0; 256 * 1024 + 1]));
    let error = bus.publish(large).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(bus.stats().published, 0);
}

#[tokio::test]
async fn every_violation_is_named() {
    let (bus, _) = bus();
    let bad = event("a").subject("").extension("User-Id", "1");
    let error = bus.publish(bad).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.violations().len(), 2);
}

#[tokio::test]
async fn a_batch_answers_for_each_event() {
    let (bus, _) = bus();
    let good = event("a").build().unwrap();
    let large = event("a").data(Data::binary(vec![0; 300_000]));
    let batch = vec![good.clone(), large.build().unwrap(), good];
    let answers = bus.publish_all(batch).await.unwrap();
    assert!(!answers[0].as_ref().unwrap().duplicate);
    assert_eq!(answers[1].as_ref().unwrap_err().kind(), ErrorKind::TooLarge);
    assert!(answers[2].as_ref().unwrap().duplicate);
}

#[tokio::test]
async fn a_batch_above_its_limit_is_refused() {
    let (bus, _) = bus();
    let one = event("a").build().unwrap();
    let error = bus.publish_all(vec![one; 1_001]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
}

#[tokio::test]
async fn what_the_publisher_left_out_is_filled_in() {
    let clock = clock();
    let bus = Bus::builder(backend(&clock))
        .clock(clock.clone())
        .source("/shop")
        .instance("node-1")
        .build()
        .unwrap();
    let (tx, mut events) = seen();
    bus.on("*")
        .handle(move |event: Event| {
            let tx = tx.clone();
            async move { tx.send(event).await.unwrap() }
        })
        .await
        .unwrap();
    bus.publish(event("a")).await.unwrap();
    let event = events.next().await;
    assert_eq!(&**event.source(), "/shop");
    assert_eq!(event.time(), Some(clock.now()));
    assert_eq!(event.extension_str("instanceid"), Some("node-1"));
}

#[tokio::test]
async fn a_full_queue_says_so_at_once_and_shutdown_drains_it() {
    let clock = clock();
    let backend = backend(&clock);
    let bus = Bus::builder(backend.clone())
        .clock(clock)
        .queue_capacity(3)
        .closes_backend(false)
        .build()
        .unwrap();
    // The queue's task cannot run between these calls: there is one thread.
    for _ in 0..3 {
        bus.try_publish(event("a")).unwrap();
    }
    let error = bus.try_publish(event("a")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert_eq!((bus.stats().queue_size, bus.stats().queue_full), (3, 1));
    let report = within(bus.shutdown(Duration::from_secs(30))).await.unwrap();
    assert_eq!(report.queue_failures, 0);
    assert_eq!(bus.stats().published, 3);
    let error = bus.try_publish(event("a")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn failures_in_the_background_are_in_the_shutdown_report() {
    let (bus, _) = bus();
    bus.backend().close().await.unwrap();
    let id = EventId::parse("order-7").unwrap();
    bus.try_publish(event("a").id(id)).unwrap();
    let report = within(bus.shutdown(Duration::from_secs(30))).await.unwrap();
    assert_eq!(report.queue_failures, 1);
    assert_eq!(report.failed[0].0, "order-7");
}

#[tokio::test]
async fn waiting_answers_for_each_subscription_of_this_process() {
    let (bus, clock) = bus();
    let reject = || async { Outcome::reject("no") };
    let (stuck, mut is_stuck) = seen();
    bus.subscribe("done", "orders.*")
        .handle(|| async {})
        .await
        .unwrap();
    bus.subscribe("dead", "orders.placed")
        .handle(reject)
        .await
        .unwrap();
    bus.subscribe("stuck", "**")
        .handle(move || {
            let stuck = stuck.clone();
            async move {
                stuck.send(()).await.unwrap();
                std::future::pending::<()>().await;
            }
        })
        .await
        .unwrap();
    bus.subscribe("other", "users.*")
        .handle(|| async {})
        .await
        .unwrap();
    let waiting = tokio::spawn({
        let bus = bus.clone();
        async move {
            bus.publish_and_wait(event("orders.placed"), Duration::from_secs(5))
                .await
        }
    });
    is_stuck.next().await;
    settle_down().await;
    clock.advance(Duration::from_secs(5));
    let waited = within(waiting).await.unwrap().unwrap();
    let names: Vec<_> = waited
        .subscriptions
        .iter()
        .map(|s| s.subscription.as_str())
        .collect();
    assert_eq!(names, ["done", "dead", "stuck"]);
    assert_eq!(waited.subscriptions[0].settled, Some((Settlement::Ack, 1)));
    let dead = waited.subscriptions[1].settled.as_ref().unwrap();
    assert!(matches!(dead.0, Settlement::DeadLetter { .. }), "{dead:?}");
    assert_eq!(waited.subscriptions[2].settled, None);
    assert!(!waited.is_settled());
}

#[tokio::test]
async fn waiting_ends_when_all_is_settled() {
    let (bus, _) = bus();
    bus.subscribe("done", "*")
        .handle(|| async {})
        .await
        .unwrap();
    let waiting = bus.publish_and_wait(event("a"), Duration::from_hours(1));
    assert!(within(waiting).await.unwrap().is_settled());
}

#[tokio::test]
async fn emitting_runs_local_handlers_in_order_and_stores_nothing() {
    let (bus, _) = bus();
    let (tx, mut order) = seen();
    for (name, fails) in [("one", false), ("two", true), ("three", false)] {
        let tx = tx.clone();
        bus.subscribe(name, "*")
            .handle(move || {
                let tx = tx.clone();
                async move {
                    tx.send(name).await.unwrap();
                    (!fails).then_some(()).ok_or("failed")
                }
            })
            .await
            .unwrap();
    }
    let emitted = bus.emit(event("a")).await.unwrap();
    assert_eq!(order.take(3).await, ["one", "two", "three"]);
    assert!(!emitted.is_ok());
    assert_eq!(emitted.handlers[1].1, Outcome::Fail("failed".into()));
    assert!(emitted.handlers[2].1.is_ack());
    assert_eq!(bus.stats().published, 0);
}
