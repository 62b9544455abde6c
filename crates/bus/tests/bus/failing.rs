//! Failing: retries, panics, timeouts, dead letters, redrive, leases.

use std::sync::Arc;
use std::time::Duration;

use fanfare_bus::{Attempt, Data, RedriveOptions, Router, Unhandled};
use fanfare_core::dead_letter::{DeadLetterFilter, Selection};
use fanfare_core::delivery::Settlement;
use fanfare_core::retry::RetryPolicy;
use tokio::sync::Semaphore;

use crate::harness::{bus, event, seen, settle_down, until, within};

fn all() -> Selection {
    Selection::Filter(DeadLetterFilter::default())
}

#[tokio::test]
async fn a_failed_delivery_comes_back_when_due_and_then_dies() {
    let (bus, clock) = bus();
    let (tx, mut attempts) = seen();
    let subscription = bus
        .subscribe("billing", "*")
        .retry(RetryPolicy::fixed(3, Duration::from_secs(10)))
        .handle(move |Attempt(n): Attempt| {
            let tx = tx.clone();
            async move {
                tx.send(n).await.unwrap();
                Err::<(), _>(format!("failed {n}"))
            }
        })
        .await
        .unwrap();
    bus.publish(event("a")).await.unwrap();
    assert_eq!(attempts.next().await, 1);
    until(|| subscription.stats().retried == 1).await;
    clock.advance(Duration::from_millis(9_999));
    settle_down().await;
    assert!(attempts.is_empty(), "back too soon");
    clock.advance(Duration::from_millis(1));
    assert_eq!(attempts.next().await, 2);
    until(|| subscription.stats().retried == 2).await;
    clock.advance(Duration::from_secs(10));
    assert_eq!(attempts.next().await, 3);
    until(|| subscription.stats().dead == 1).await;
    let letters = bus.backend().dead_letters();
    let page = letters
        .list(&DeadLetterFilter::default(), None, 10)
        .await
        .unwrap();
    let letter = &page.items[0];
    assert_eq!(
        (
            letter.reason.as_str(),
            letter.error.as_str(),
            letter.attempts
        ),
        ("max_attempts", "failed 3", 3)
    );
    let audited = bus.backend().admin().audit(None).await.unwrap();
    assert!(audited[0].counts.balanced() && audited[0].breaches.is_empty());
}

#[tokio::test]
async fn a_panic_is_a_failure_and_stops_nothing() {
    let (bus, _) = bus();
    let subscription = bus
        .subscribe("s", "*")
        .retry(RetryPolicy::never())
        .handle(|Data(n): Data<u32>| async move {
            assert!(n == 1, "odd number {n}");
        })
        .await
        .unwrap();
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let bad = event("a").data(fanfare_core::data::Data::json("7"));
    let failed = bus.publish_and_wait(bad, Duration::from_secs(1));
    let failed = within(failed).await.unwrap();
    std::panic::set_hook(quiet);
    let Some((Settlement::DeadLetter { error, .. }, 1)) = &failed.subscriptions[0].settled else {
        panic!("{failed:?}");
    };
    assert!(error.starts_with("panicked: odd number 7"), "{error}");
    let fine = bus.publish_and_wait(event("a"), Duration::from_secs(1));
    assert!(within(fine).await.unwrap().is_settled());
    assert_eq!(subscription.stats().panics, 1);
}

#[tokio::test]
async fn a_handler_that_takes_too_long_has_failed() {
    let (bus, clock) = bus();
    let (tx, mut started) = seen();
    let subscription = bus
        .subscribe("s", "*")
        .retry(RetryPolicy::never())
        .timeout(Duration::from_secs(3))
        .handle(move || {
            let tx = tx.clone();
            async move {
                tx.send(()).await.unwrap();
                std::future::pending::<()>().await;
            }
        })
        .await
        .unwrap();
    bus.publish(event("a")).await.unwrap();
    started.next().await;
    settle_down().await;
    clock.advance(Duration::from_secs(3));
    until(|| subscription.stats().dead == 1).await;
    assert_eq!(subscription.stats().timeouts, 1);
}

#[tokio::test]
async fn data_that_do_not_fit_are_dead_at_once() {
    let (bus, _) = bus();
    bus.subscribe("s", "*")
        .handle(|_: Data<u32>| async {})
        .await
        .unwrap();
    let bad = event("a").data(fanfare_core::data::Data::json("\"text\""));
    let waited = bus.publish_and_wait(bad, Duration::from_secs(1));
    let waited = within(waited).await.unwrap();
    let Some((Settlement::DeadLetter { reason, .. }, 1)) = &waited.subscriptions[0].settled else {
        panic!("{waited:?}");
    };
    assert_eq!(reason, "undecodable");
}

#[tokio::test]
async fn an_event_without_a_route_is_dead_where_asked() {
    let (bus, _) = bus();
    for (name, unhandled) in [("acks", Unhandled::Ack), ("keeps", Unhandled::DeadLetter)] {
        bus.subscribe(name, "orders.*")
            .unhandled(unhandled)
            .router(Router::new().route("orders.placed", || async {}))
            .await
            .unwrap();
    }
    let waited = bus.publish_and_wait(event("orders.gone"), Duration::from_secs(1));
    let waited = within(waited).await.unwrap();
    assert_eq!(waited.subscriptions[0].settled, Some((Settlement::Ack, 1)));
    let kept = waited.subscriptions[1].settled.as_ref().unwrap();
    assert!(matches!(&kept.0, Settlement::DeadLetter { reason, .. } if reason == "unhandled"));
    assert!(bus.stats().subscriptions.iter().all(|s| s.unhandled == 1));
}

#[tokio::test]
async fn redrive_keeps_its_rate_and_its_dry_run_changes_nothing() {
    let (bus, clock) = bus();
    let (tx, mut handled) = seen();
    let subscription = bus
        .subscribe("s", "*")
        .retry(RetryPolicy::never())
        .handle(move || {
            let tx = tx.clone();
            async move {
                tx.send(()).await.unwrap();
                Err::<(), _>("no")
            }
        })
        .await
        .unwrap();
    for _ in 0..30 {
        bus.publish(event("a")).await.unwrap();
    }
    handled.take(30).await;
    until(|| subscription.stats().dead == 30).await;
    let dry = RedriveOptions {
        dry_run: true,
        ..RedriveOptions::default()
    };
    let acted = bus.redrive(all(), dry).await.unwrap();
    assert_eq!((acted.matched, acted.done), (30, 0));
    let slow = RedriveOptions {
        rate: Some(10),
        limit: Some(20),
        dry_run: false,
    };
    let redriving = tokio::spawn({
        let bus = bus.clone();
        async move { bus.redrive(all(), slow).await }
    });
    handled.next().await;
    settle_down().await;
    assert!(handled.is_empty(), "faster than the rate");
    for _ in 0..19 {
        clock.advance(Duration::from_millis(100));
        handled.next().await;
        settle_down().await;
    }
    let acted = within(redriving).await.unwrap().unwrap();
    assert_eq!((acted.matched, acted.done), (30, 20));
}

#[tokio::test]
async fn a_heartbeat_keeps_a_slow_handlers_delivery() {
    let (bus, clock) = bus();
    let (tx, mut started) = seen();
    let gate = Arc::new(Semaphore::new(0));
    let subscription = bus
        .subscribe("s", "*")
        .lease(Duration::from_secs(30))
        .handle({
            let gate = Arc::clone(&gate);
            move |Attempt(n): Attempt| {
                let (tx, gate) = (tx.clone(), Arc::clone(&gate));
                async move {
                    tx.send(n).await.unwrap();
                    gate.acquire().await.unwrap().forget();
                }
            }
        })
        .await
        .unwrap();
    bus.publish(event("a")).await.unwrap();
    assert_eq!(started.next().await, 1);
    for _ in 0..10 {
        settle_down().await;
        clock.advance(Duration::from_secs(10));
    }
    settle_down().await;
    gate.add_permits(1);
    until(|| subscription.stats().acknowledged == 1).await;
    assert!(started.is_empty(), "delivered twice");
    assert_eq!(subscription.stats().leases_lost, 0);
}

#[tokio::test]
async fn a_lost_lease_is_noted_and_its_settlement_refused() {
    let (bus, clock) = bus();
    let (tx, mut started) = seen();
    let gate = Arc::new(Semaphore::new(0));
    let subscription = bus
        .subscribe("s", "*")
        .lease(Duration::from_secs(30))
        .handle({
            let gate = Arc::clone(&gate);
            move |Attempt(n): Attempt| {
                let (tx, gate) = (tx.clone(), Arc::clone(&gate));
                async move {
                    tx.send(n).await.unwrap();
                    gate.acquire().await.unwrap().forget();
                }
            }
        })
        .await
        .unwrap();
    bus.publish(event("a")).await.unwrap();
    started.next().await;
    settle_down().await;
    // The process was suspended: no heartbeat ran for longer than the lease.
    clock.advance(Duration::from_secs(31));
    until(|| subscription.stats().leases_lost == 1).await;
    gate.add_permits(1);
    until(|| subscription.stats().refused == 1).await;
    assert_eq!(subscription.stats().acknowledged, 0);
    started.next().await;
    gate.add_permits(1);
    until(|| subscription.stats().acknowledged == 1).await;
}

#[tokio::test]
async fn the_newest_dead_letters_come_first_however_many_there_are() {
    let (bus, _) = bus();
    let subscription = bus
        .subscribe("s", "*")
        .retry(RetryPolicy::never())
        .concurrency(64)
        .handle(|Data(n): Data<u32>| async move { Err::<(), _>(n.to_string()) })
        .await
        .unwrap();
    for n in 0..1_500 {
        let numbered = event("a").data(fanfare_core::data::Data::json(n.to_string()));
        bus.publish(numbered).await.unwrap();
    }
    until(|| subscription.stats().dead == 1_500).await;
    let any = DeadLetterFilter::default();
    let newest = bus.newest_dead_letters(&any, 1_200).await.unwrap();
    let page = bus.backend().dead_letters().list(&any, None, 2_000).await;
    let mut oldest_first: Vec<_> = page.unwrap().items.into_iter().map(|one| one.id).collect();
    oldest_first.reverse();
    let newest: Vec<_> = newest.into_iter().map(|one| one.id).collect();
    assert_eq!(newest, oldest_first[..1_200]);
    assert!(bus.newest_dead_letters(&any, 0).await.unwrap().is_empty());
}
