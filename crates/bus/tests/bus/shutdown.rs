//! Living and stopping: drain, release, cut off; at any moment and more than once.

use std::sync::Arc;
use std::time::Duration;

use fanfare_bus::{Attempt, Bus, default_bus};
use fanfare_core::error::ErrorKind;
use tokio::sync::Semaphore;

use crate::harness::{backend, bus, clock, event, seen, settle_down, until, within};

#[tokio::test]
async fn running_handlers_finish_and_the_rest_is_released() {
    let clock = clock();
    let backend = backend(&clock);
    let bus = Bus::builder(backend.clone())
        .clock(clock.clone())
        .closes_backend(false)
        .build()
        .unwrap();
    let (tx, mut started) = seen();
    let gate = Arc::new(Semaphore::new(0));
    bus.subscribe("s", "*")
        .concurrency(2)
        .handle({
            let gate = Arc::clone(&gate);
            move |bus: Bus| {
                let (tx, gate) = (tx.clone(), Arc::clone(&gate));
                async move {
                    tx.send(()).await.unwrap();
                    gate.acquire().await.unwrap().forget();
                    // A handler that still runs may publish.
                    bus.publish(event("b")).await.map(|_| ())
                }
            }
        })
        .await
        .unwrap();
    for _ in 0..10 {
        bus.publish(event("a")).await.unwrap();
    }
    started.take(2).await;
    let stopping = tokio::spawn({
        let bus = bus.clone();
        async move { bus.shutdown(Duration::from_secs(30)).await }
    });
    settle_down().await;
    assert_eq!(
        bus.publish(event("c")).await.unwrap_err().kind(),
        ErrorKind::Closed
    );
    gate.add_permits(2);
    let report = within(stopping).await.unwrap().unwrap();
    assert!(report.released > 0 && report.cut_off == 0, "{report:?}");
    assert!(started.is_empty(), "started while draining");
    let next = Bus::builder(backend).clock(clock).build().unwrap();
    let (tx, mut attempts) = seen();
    next.subscribe("s", "*")
        .handle(move |Attempt(n): Attempt| {
            let tx = tx.clone();
            async move { tx.send(n).await.unwrap() }
        })
        .await
        .unwrap();
    assert_eq!(
        attempts.take(10).await,
        [1; 10],
        "eight released, two published"
    );
}

#[tokio::test]
async fn a_handler_that_does_not_end_is_cut_off() {
    let (bus, clock) = bus();
    let (tx, mut started) = seen();
    bus.subscribe("s", "*")
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
    let stopping = tokio::spawn({
        let bus = bus.clone();
        async move { bus.shutdown(Duration::from_secs(30)).await }
    });
    settle_down().await;
    clock.advance(Duration::from_secs(30));
    let report = within(stopping).await.unwrap().unwrap();
    assert_eq!((report.cut_off, report.unsettled), (1, 0));
}

#[tokio::test]
async fn stopping_twice_and_before_anything_started_is_fine() {
    let (bus, _) = bus();
    let both = futures::join!(
        bus.shutdown(Duration::from_secs(1)),
        bus.shutdown(Duration::from_secs(1))
    );
    assert_eq!(both.0.unwrap(), both.1.unwrap());
    bus.shutdown(Duration::ZERO).await.unwrap();
    let error = bus.publish(event("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    let error = bus
        .subscribe("s", "*")
        .handle(|| async {})
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(bus.health().await.phase, "closed");
}

#[tokio::test]
async fn stopping_while_subscriptions_start_leaves_none_running() {
    let idle = || async {};
    for _ in 0..50 {
        let (bus, _) = bus();
        let starting = tokio::spawn({
            let bus = bus.clone();
            async move { bus.subscribe("s", "*").handle(idle).await }
        });
        tokio::task::yield_now().await;
        within(bus.shutdown(Duration::from_secs(1))).await.unwrap();
        let _ = within(starting).await.unwrap();
        assert!(bus.stats().subscriptions.is_empty());
    }
}

#[tokio::test]
async fn no_task_outlives_the_bus() {
    let before = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let (bus, _) = bus();
    bus.subscribe("s", "*")
        .concurrency(8)
        .handle(|| async {})
        .await
        .unwrap();
    bus.publish(event("a")).await.unwrap();
    within(bus.shutdown(Duration::from_secs(1))).await.unwrap();
    let alive = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    assert_eq!(alive(), before);
    // Also when it is dropped without a word.
    let (bus, _) = self::bus();
    bus.on("*").handle(|| async {}).await.unwrap();
    drop(bus);
    until(|| alive() == before).await;
}

#[tokio::test]
async fn the_default_bus_is_set_once_and_asked_for_without_panic() {
    assert_eq!(default_bus::get().unwrap_err().kind(), ErrorKind::NotFound);
    let error = default_bus::publish(event("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let (first, _) = bus();
    let (second, _) = bus();
    default_bus::init(first).unwrap();
    assert_eq!(
        default_bus::init(second.clone()).unwrap_err().kind(),
        ErrorKind::Conflict
    );
    default_bus::publish(event("a")).await.unwrap();
    default_bus::shutdown(Duration::from_secs(1)).await.unwrap();
    default_bus::init(second).unwrap();
}

#[tokio::test]
async fn a_handler_may_shut_the_bus_down_and_a_caller_may_stop_waiting() {
    let (bus, clock) = bus();
    let (tx, mut asked) = seen();
    bus.subscribe("s", "*")
        .handle(move |bus: Bus| {
            let tx = tx.clone();
            async move {
                tx.send(()).await.unwrap();
                bus.shutdown(Duration::from_secs(3)).await.map(|_| ())
            }
        })
        .await
        .unwrap();
    bus.publish(event("a")).await.unwrap();
    asked.next().await;
    settle_down().await;
    let impatient = bus.shutdown(Duration::from_secs(30));
    futures::pin_mut!(impatient);
    assert!(futures::poll!(impatient.as_mut()).is_pending());
    clock.advance(Duration::from_secs(3));
    let report = within(bus.shutdown(Duration::from_secs(30))).await.unwrap();
    assert_eq!(report.cut_off, 1, "the one that asked");
}

#[tokio::test]
async fn a_bus_with_impossible_options_does_not_start() {
    let clock = clock();
    let limits = fanfare_bus::Limits {
        prefetch: 0,
        publish_timeout: Duration::ZERO,
        ..fanfare_bus::Limits::default()
    };
    let builder = Bus::builder(backend(&clock)).limits(limits);
    let error = builder.source("").group("a b").build().unwrap_err();
    assert_eq!(error.violations().len(), 4, "{error}");
}
