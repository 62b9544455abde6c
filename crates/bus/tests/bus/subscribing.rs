//! Subscribing: names, groups, broadcast, extractors, layers, concurrency, control.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fanfare_bus::middleware::Throttle;
use fanfare_bus::{Attempt, Bus, Data, Metadata, Raw, Router, State};
use fanfare_core::admin::SeekTo;
use fanfare_core::delivery::Delivery;
use fanfare_core::error::ErrorKind;
use fanfare_core::event::Event;
use fanfare_core::position::Position;
use fanfare_core::subscription::{Start, SubscriptionName};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tower::timeout::TimeoutLayer;

use crate::harness::{backend, bus, clock, event, seen, settle_down, until, within};

#[tokio::test]
async fn handlers_take_what_they_ask_for() {
    #[derive(Clone)]
    struct Factor(u32);
    #[expect(clippy::too_many_arguments, reason = "every extractor at once")]
    async fn multiply(
        Data(n): Data<u32>,
        Raw(bytes): Raw,
        State(factor): State<Factor>,
        Attempt(attempt): Attempt,
        metadata: Metadata,
        event: Event,
        name: SubscriptionName,
        delivery: Delivery,
    ) -> Result<(), String> {
        let right = n * factor.0 == 42
            && &*bytes == b"21"
            && attempt == 1
            && metadata.user_id() == Some("u1")
            && event.event_type().as_str() == "a.b"
            && name.as_str() == "s"
            && delivery.position > Position::START;
        if right { Ok(()) } else { Err("wrong".into()) }
    }
    let (bus, _) = bus();
    let subscription = bus
        .subscribe("s", "a.*")
        .state(Factor(2))
        .handle(multiply)
        .await
        .unwrap();
    let given = event("a.b")
        .data(fanfare_core::data::Data::json("21"))
        .extension("userid", "u1");
    bus.publish(given).await.unwrap();
    until(|| subscription.stats().acknowledged == 1).await;
}

#[tokio::test]
async fn a_missing_state_is_found_at_the_start() {
    let (bus, _) = bus();
    let handler = |_: State<String>| async {};
    let error = bus.subscribe("s", "*").handle(handler).await.unwrap_err();
    assert_eq!(error.violations()[0].pointer, "/state");
}

#[tokio::test]
async fn every_mistake_is_named_in_one_error() {
    let (bus, _) = bus();
    let error = bus
        .subscribe("not a name", "a..b")
        .concurrency(0)
        .lease(Duration::ZERO)
        .handle(|| async {})
        .await
        .unwrap_err();
    assert_eq!(error.violations().len(), 4, "{error}");
    let twice = Router::new()
        .route("a", || async {})
        .route("a", || async {})
        .route("b*", || async {});
    let error = bus.subscribe("s", "*").router(twice).await.unwrap_err();
    assert_eq!(error.violations().len(), 2, "{error}");
}

#[tokio::test]
async fn the_first_route_that_matches_runs() {
    let (bus, _) = bus();
    let (tx, mut ran) = seen();
    let says = |word: &'static str| {
        let tx = tx.clone();
        move || {
            let tx = tx.clone();
            async move { tx.send(word).await.unwrap() }
        }
    };
    let router = Router::new()
        .route("a.x", says("exact"))
        .route("a.*", says("one"))
        .route("a.y", says("never"))
        .route("**", says("any"));
    bus.subscribe("s", "*").router(router).await.unwrap();
    for event_type in ["a.x", "a.y", "b"] {
        bus.publish(event(event_type)).await.unwrap();
    }
    assert_eq!(ran.take(3).await, ["exact", "one", "any"]);
}

#[tokio::test]
async fn members_of_one_name_share_and_other_patterns_are_refused() {
    let clock = clock();
    let backend = backend(&clock);
    let (tx, mut handled) = seen();
    let mut buses = Vec::new();
    for _ in 0..2 {
        let bus = Bus::builder(backend.clone())
            .clock(clock.clone())
            .closes_backend(false);
        let bus = bus.build().unwrap();
        let tx = tx.clone();
        bus.subscribe("s", "a.*")
            .handle(move |event: Event| {
                let tx = tx.clone();
                async move { tx.send(event.id().clone()).await.unwrap() }
            })
            .await
            .unwrap();
        buses.push(bus);
    }
    for _ in 0..100 {
        buses[0].publish(event("a.b")).await.unwrap();
    }
    let mut ids = handled.take(100).await;
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 100);
    settle_down().await;
    assert!(handled.is_empty(), "shared, not copied");
    let error = buses[1]
        .subscribe("s", "b.*")
        .handle(|| async {})
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

async fn notify() {}

#[tokio::test]
async fn a_group_makes_unnamed_handlers_durable() {
    let clock = clock();
    let bus = Bus::builder(backend(&clock))
        .clock(clock)
        .group("app")
        .build()
        .unwrap();
    let named = bus.on("a").handle(notify).await.unwrap();
    assert_eq!(named.name().as_str(), "app.notify");
    let closure = bus
        .on("a")
        .named("other")
        .handle(|| async {})
        .await
        .unwrap();
    assert_eq!(closure.name().as_str(), "app.other");
    let error = bus.on("a").handle(|| async {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(bus.backend().admin().list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn broadcast_is_from_now_on_and_gone_with_its_handler() {
    let (bus, _) = bus();
    bus.publish(event("a")).await.unwrap();
    let (tx, mut handled) = seen();
    let subscription = bus
        .on("*")
        .handle(move |event: Event| {
            let tx = tx.clone();
            async move { tx.send(event.event_type().to_string()).await.unwrap() }
        })
        .await
        .unwrap();
    bus.publish(event("b")).await.unwrap();
    assert_eq!(handled.next().await, "b");
    assert!(bus.backend().admin().list().await.unwrap().is_empty());
    within(subscription.unsubscribe(Duration::from_secs(1)))
        .await
        .unwrap();
    bus.publish(event("c")).await.unwrap();
    settle_down().await;
    assert!(handled.is_empty());
}

#[tokio::test]
async fn unsubscribing_leaves_a_durable_subscription_collecting() {
    let (bus, _) = bus();
    let (tx, mut handled) = seen();
    let reports = move || {
        let tx = tx.clone();
        async move { tx.send(()).await.unwrap() }
    };
    let first = bus
        .subscribe("s", "*")
        .handle(reports.clone())
        .await
        .unwrap();
    within(first.unsubscribe(Duration::from_secs(1)))
        .await
        .unwrap();
    within(first.unsubscribe(Duration::from_secs(1)))
        .await
        .unwrap();
    bus.publish(event("a")).await.unwrap();
    settle_down().await;
    assert!(handled.is_empty());
    bus.subscribe("s", "*").handle(reports).await.unwrap();
    handled.next().await;
}

#[tokio::test]
async fn no_more_handlers_run_at_once_than_allowed() {
    let (bus, _) = bus();
    let (tx, mut started) = seen();
    let gate = Arc::new(Semaphore::new(0));
    let subscription = bus
        .subscribe("s", "*")
        .concurrency(3)
        .handle({
            let gate = Arc::clone(&gate);
            move || {
                let (tx, gate) = (tx.clone(), Arc::clone(&gate));
                async move {
                    tx.send(()).await.unwrap();
                    gate.acquire().await.unwrap().forget();
                }
            }
        })
        .await
        .unwrap();
    for _ in 0..10 {
        bus.publish(event("a")).await.unwrap();
    }
    started.take(3).await;
    settle_down().await;
    assert!(started.is_empty());
    assert_eq!(subscription.stats().running, 3);
    gate.add_permits(10);
    started.take(7).await;
    until(|| subscription.stats().acknowledged == 10).await;
    assert_eq!(subscription.stats().held, 0);
}

#[tokio::test]
async fn paused_hands_out_nothing_until_resumed() {
    let (bus, _) = bus();
    let (tx, mut handled) = seen();
    let subscription = bus
        .subscribe("s", "*")
        .handle(move || {
            let tx = tx.clone();
            async move { tx.send(()).await.unwrap() }
        })
        .await
        .unwrap();
    subscription.pause().await.unwrap();
    bus.publish(event("a")).await.unwrap();
    settle_down().await;
    assert!(handled.is_empty());
    subscription.resume().await.unwrap();
    handled.next().await;
}

#[tokio::test]
async fn seeking_back_delivers_again() {
    let (bus, _) = bus();
    let (tx, mut handled) = seen();
    let subscription = bus
        .subscribe("s", "*")
        .start(Start::Earliest)
        .handle(move || {
            let tx = tx.clone();
            async move { tx.send(()).await.unwrap() }
        })
        .await
        .unwrap();
    for _ in 0..3 {
        bus.publish(event("a")).await.unwrap();
    }
    handled.take(3).await;
    until(|| subscription.stats().acknowledged == 3).await;
    let dry = subscription.seek(&SeekTo::Earliest, true).await.unwrap();
    assert_eq!(dry.events, 3);
    subscription.seek(&SeekTo::Earliest, false).await.unwrap();
    handled.take(3).await;
}

#[tokio::test]
async fn a_layer_wraps_the_handler_and_its_error_is_a_failure() {
    let (bus, _) = bus();
    let subscription = bus
        .subscribe("s", "*")
        .layer(TimeoutLayer::new(Duration::from_millis(1)))
        .handle(std::future::pending::<()>)
        .await
        .unwrap();
    bus.publish(event("a")).await.unwrap();
    until(|| subscription.stats().retried == 1).await;
}

#[tokio::test]
async fn a_subscription_deleted_under_us_is_created_again() {
    let (bus, clock) = bus();
    let (tx, mut handled) = seen();
    let subscription = bus
        .subscribe("s", "*")
        .handle(move |event: Event| {
            let tx = tx.clone();
            async move { tx.send(event.event_type().to_string()).await.unwrap() }
        })
        .await
        .unwrap();
    bus.publish(event("a")).await.unwrap();
    assert_eq!(handled.next().await, "a");
    until(|| subscription.stats().acknowledged == 1).await;
    bus.backend()
        .admin()
        .delete(subscription.name(), true)
        .await
        .unwrap();
    bus.publish(event("b")).await.unwrap();
    settle_down().await;
    clock.advance(Duration::from_mins(1));
    assert_eq!(handled.next().await, "b");
    assert!(bus.health().await.ok);
}

#[tokio::test]
async fn what_is_held_is_bounded_in_number_and_bytes() {
    let clock = clock();
    let limits = fanfare_bus::Limits {
        prefetch: 50,
        prefetch_bytes: 1_000_000,
        ..fanfare_bus::Limits::default()
    };
    let builder = Bus::builder(backend(&clock)).clock(clock).limits(limits);
    let bus = builder.build().unwrap();
    let most: Arc<Mutex<HashMap<SubscriptionName, u64>>> = Arc::default();
    let watch = {
        let most = Arc::clone(&most);
        move |bus: Bus, name: SubscriptionName| {
            let most = Arc::clone(&most);
            async move {
                tokio::task::yield_now().await;
                let stats = bus.stats().subscriptions;
                let held = stats.iter().find(|s| s.name == name).unwrap().held;
                let mut most = most.lock();
                let mine = most.entry(name).or_default();
                *mine = held.max(*mine);
            }
        }
    };
    let small = bus.subscribe("small", "small").handle(watch.clone());
    let small = small.await.unwrap();
    let large = bus.subscribe("large", "large").handle(watch).await.unwrap();
    let data = fanfare_core::data::Data::binary(vec![0; 100_000]);
    for _ in 0..300 {
        bus.publish(event("small")).await.unwrap();
        bus.publish(event("large").data(data.clone()))
            .await
            .unwrap();
    }
    until(|| small.stats().acknowledged + large.stats().acknowledged == 600).await;
    let most = most.lock();
    let (small, large) = (most[small.name()], most[large.name()]);
    assert!((10..=50).contains(&small), "{small}");
    assert!((2..=11).contains(&large), "{large}");
}

#[tokio::test]
async fn a_throttle_spaces_the_handlers() {
    let (bus, clock) = bus();
    let (tx, mut started) = seen();
    bus.subscribe("s", "*")
        .concurrency(10)
        .layer(Throttle::per_second(2, clock.clone()))
        .handle(move || {
            let tx = tx.clone();
            async move { tx.send(()).await.unwrap() }
        })
        .await
        .unwrap();
    for _ in 0..3 {
        bus.publish(event("a")).await.unwrap();
    }
    started.next().await;
    for _ in 0..2 {
        settle_down().await;
        clock.advance(Duration::from_millis(499));
        settle_down().await;
        assert!(started.is_empty(), "too soon");
        clock.advance(Duration::from_millis(1));
        started.next().await;
    }
}

#[tokio::test]
async fn unsubscribing_patterns_ends_every_handler_of_just_these() {
    let (bus, _) = bus();
    let (tx, mut handled) = seen();
    for (name, pattern) in [("one", "a"), ("two", "a"), ("wide", "*"), ("other", "b")] {
        let tx = tx.clone();
        let tell = move |event: Event| {
            let tx = tx.clone();
            async move { tx.send((name, event.event_type().to_string())).await }
        };
        bus.subscribe(name, pattern).handle(tell).await.unwrap();
    }
    let ended = bus.unsubscribe("a", Duration::from_secs(1)).await.unwrap();
    assert_eq!(ended, 2);
    assert_eq!(bus.unsubscribe("a", Duration::ZERO).await.unwrap(), 0);
    for event_type in ["a", "b"] {
        bus.publish(event(event_type)).await.unwrap();
    }
    let mut seen = handled.take(3).await;
    seen.sort_unstable();
    let expected = [("other", "b"), ("wide", "a"), ("wide", "b")];
    assert!(
        seen.iter()
            .map(|(name, kind)| (*name, kind.as_str()))
            .eq(expected)
    );
    settle_down().await;
    assert!(handled.is_empty());
    // They were ended here, not forgotten: what came meanwhile waits for whoever joins.
    let kept = bus.backend().admin().get(&"one".parse().unwrap()).await;
    assert_eq!(kept.unwrap().counts.waiting, 1);
}
