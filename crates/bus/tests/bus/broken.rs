//! A backend that fails, hangs or loses its answers: nothing is reported that is not so, and the
//! bus goes on by itself.

use std::sync::Arc;
use std::time::Duration;

use fanfare_bus::Bus;
use fanfare_core::clock::Clock;
use fanfare_core::error::ErrorKind;
use tokio::sync::Semaphore;

use crate::faulty::{Fault, Faults, Faulty};
use crate::harness::{clock, event, seen, settle_down, until, within};

fn bus() -> (Bus, Clock, Arc<Faults>) {
    let clock = clock();
    let backend = Faulty::new(&clock);
    let faults = Arc::clone(&backend.faults);
    let bus = Bus::builder(backend).clock(clock.clone()).build();
    (bus.unwrap(), clock, faults)
}

/// Moves the clock until the task is done.
async fn finish<T>(clock: &Clock, task: tokio::task::JoinHandle<T>) -> T {
    while !task.is_finished() {
        settle_down().await;
        clock.advance(Duration::from_millis(500));
    }
    within(task).await.unwrap()
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_unknown() {
    let (bus, clock, faults) = bus();
    faults.publish.lock().push_back(Fault::Hangs);
    let event = event("a").build().unwrap();
    let publishing = tokio::spawn({
        let (bus, event) = (bus.clone(), event.clone());
        async move { bus.publish(event).await }
    });
    let error = finish(&clock, publishing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown);
    assert!(!bus.publish(event).await.unwrap().duplicate);
    assert_eq!(bus.stats().publish_failures, 1);
}

#[tokio::test]
async fn a_lost_answer_is_unknown_and_publishing_again_is_a_duplicate() {
    let (bus, _, faults) = bus();
    faults.publish.lock().push_back(Fault::LosesAnswer);
    let event = event("a").build().unwrap();
    let error = bus.publish(event.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown);
    assert!(bus.publish(event).await.unwrap().duplicate);
}

#[tokio::test]
async fn a_backend_that_is_away_for_a_moment_is_waited_for() {
    let (bus, clock, faults) = bus();
    let away = [Fault::Fails(ErrorKind::Unavailable); 3];
    faults.publish.lock().extend(away);
    let publishing = tokio::spawn({
        let bus = bus.clone();
        async move { bus.publish(event("a")).await }
    });
    finish(&clock, publishing).await.unwrap();
    assert_eq!(bus.stats().publish_failures, 0);
}

#[tokio::test]
async fn a_backend_that_stays_away_fails_the_publish_within_its_deadline() {
    let (bus, clock, faults) = bus();
    faults
        .publish
        .lock()
        .extend([Fault::Fails(ErrorKind::Unavailable); 1_000]);
    let before = clock.now();
    let publishing = tokio::spawn({
        let bus = bus.clone();
        async move { bus.publish(event("a")).await }
    });
    let error = finish(&clock, publishing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(clock.now().since(before) <= Duration::from_millis(10_500));
}

#[tokio::test]
async fn the_queue_sends_again_what_may_not_have_arrived() {
    let (bus, clock, faults) = bus();
    faults
        .publish
        .lock()
        .extend([Fault::LosesAnswer, Fault::Fails(ErrorKind::Unknown)]);
    bus.try_publish(event("a")).unwrap();
    let stopping = tokio::spawn({
        let bus = bus.clone();
        async move { bus.shutdown(Duration::from_secs(30)).await }
    });
    let report = finish(&clock, stopping).await.unwrap();
    assert_eq!(report.queue_failures, 0);
    assert_eq!(bus.stats().duplicates, 1);
}

#[tokio::test]
async fn a_queue_that_cannot_be_emptied_is_given_up_at_the_deadline() {
    let (bus, clock, faults) = bus();
    faults.publish.lock().extend([Fault::Hangs; 10]);
    for _ in 0..3 {
        bus.try_publish(event("a")).unwrap();
    }
    let stopping = tokio::spawn({
        let bus = bus.clone();
        async move { bus.shutdown(Duration::from_secs(2)).await }
    });
    let report = finish(&clock, stopping).await.unwrap();
    assert_eq!((report.queue_failures, report.failed.len()), (3, 3));
}

#[tokio::test]
async fn settlements_are_repeated_until_they_are_known_and_counted_once() {
    let (bus, clock, faults) = bus();
    let gone = Fault::Fails(ErrorKind::Unavailable);
    faults
        .settle
        .lock()
        .extend([gone, Fault::LosesAnswer, gone]);
    let subscription = bus.subscribe("s", "*").handle(|| async {}).await.unwrap();
    bus.publish(event("a")).await.unwrap();
    for _ in 0..10 {
        settle_down().await;
        clock.advance(Duration::from_secs(1));
    }
    until(|| subscription.stats().acknowledged == 1).await;
    assert_eq!(
        (subscription.stats().received, subscription.stats().refused),
        (1, 0)
    );
}

#[tokio::test]
async fn a_subscription_reconnects_by_itself_and_says_so_meanwhile() {
    let (bus, clock, faults) = bus();
    faults
        .receive
        .lock()
        .extend([Fault::Fails(ErrorKind::Unavailable); 2]);
    let (tx, mut handled) = seen();
    bus.subscribe("s", "*")
        .handle(move || {
            let tx = tx.clone();
            async move { tx.send(()).await.unwrap() }
        })
        .await
        .unwrap();
    bus.publish(event("a")).await.unwrap();
    settle_down().await;
    let health = bus.health().await;
    assert!(!health.ok && health.failing[0].0 == "s", "{health:?}");
    clock.advance(Duration::from_secs(1));
    settle_down().await;
    clock.advance(Duration::from_secs(1));
    handled.next().await;
    assert!(bus.health().await.ok);
}

#[tokio::test]
async fn what_finishes_together_is_settled_together() {
    let (bus, _, faults) = bus();
    let gate = Arc::new(Semaphore::new(0));
    let subscription = bus
        .subscribe("s", "*")
        .concurrency(100)
        .handle({
            let gate = Arc::clone(&gate);
            move || {
                let gate = Arc::clone(&gate);
                async move { gate.acquire().await.unwrap().forget() }
            }
        })
        .await
        .unwrap();
    for _ in 0..100 {
        bus.publish(event("a")).await.unwrap();
    }
    until(|| subscription.stats().running == 100).await;
    gate.add_permits(100);
    until(|| subscription.stats().acknowledged == 100).await;
    let calls = faults.settled.lock().clone();
    assert!(calls.len() <= 4, "{calls:?}");
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_settlements_beyond_its_deadline() {
    let (bus, clock, faults) = bus();
    faults
        .settle
        .lock()
        .extend([Fault::Fails(ErrorKind::Unavailable); 1_000]);
    let subscription = bus.subscribe("s", "*").handle(|| async {}).await.unwrap();
    bus.publish(event("a")).await.unwrap();
    until(|| subscription.stats().received == 1).await;
    let stopping = tokio::spawn({
        let bus = bus.clone();
        async move { bus.shutdown(Duration::from_secs(3)).await }
    });
    let report = finish(&clock, stopping).await.unwrap();
    assert_eq!(report.unsettled, 1);
}

#[tokio::test]
async fn a_settlement_that_hangs_does_not_hold_up_the_shutdown() {
    let (bus, clock, faults) = bus();
    faults.settle.lock().push_back(Fault::Hangs);
    let subscription = bus.subscribe("s", "*").handle(|| async {}).await.unwrap();
    bus.publish(event("a")).await.unwrap();
    until(|| faults.settle.lock().is_empty()).await;
    let before = clock.now();
    let stopping = tokio::spawn({
        let bus = bus.clone();
        async move { bus.shutdown(Duration::from_secs(3)).await }
    });
    let report = finish(&clock, stopping).await.unwrap();
    assert_eq!(report.unsettled, 1);
    assert_eq!(subscription.stats().held, 0);
    assert!(clock.now().since(before) <= Duration::from_secs(6));
}
