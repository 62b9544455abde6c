//! Forwarding: what arrives, what waits for a target that is away, and what ends in a dead letter.

use std::sync::Arc;
use std::time::Duration;

use fanfare_bus::{Attempt, Bus};
use fanfare_core::ErrorKind;
use fanfare_core::clock::Clock;
use fanfare_core::data::Data;
use fanfare_core::dead_letter::DeadLetterFilter;
use fanfare_core::event::Event;
use fanfare_core::history::EventQuery;
use fanfare_core::subscription::SubscriptionName;

use crate::faulty::{Fault, Faults, Faulty};
use crate::harness::{backend, bus, clock, event, seen, until, within};

/// A bus whose backend fails on demand.
fn faulty(clock: &Clock) -> (Bus, Arc<Faults>) {
    let backend = Faulty::new(clock);
    let faults = Arc::clone(&backend.faults);
    let bus = Bus::builder(backend).clock(clock.clone()).build().unwrap();
    (bus, faults)
}

/// The next `n` publishes fail.
fn fail(faults: &Faults, kind: ErrorKind, n: usize) {
    let all = std::iter::repeat_n(Fault::Fails(kind), n);
    faults.publish.lock().extend(all);
}

async fn stored(bus: &Bus) -> Vec<Event> {
    let history = bus.backend().history().unwrap();
    let query = EventQuery {
        limit: 1_000,
        ..EventQuery::default()
    };
    let page = history.events(&query).await.unwrap();
    page.items.into_iter().map(|item| item.event).collect()
}

fn name() -> SubscriptionName {
    "to-target".parse().unwrap()
}

async fn acknowledged(bus: &Bus) -> u64 {
    let info = bus.backend().admin().get(&name()).await.unwrap();
    info.counts.acknowledged
}

fn forwarded(bus: &Bus) -> u64 {
    bus.telemetry().forwarding(&name()).forwarded.get()
}

/// Moves the clock while the tasks work, until `condition` holds.
async fn moving(clock: &Clock, condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            clock.advance(Duration::from_millis(50));
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn events_arrive_unchanged_and_in_the_order_of_their_key() {
    let (from, _) = bus();
    let target = Bus::builder(backend(from.clock())).clock(from.clock().clone());
    let target = target
        .source("/elsewhere")
        .instance("there")
        .build()
        .unwrap();
    let mut published = Vec::new();
    for n in 0..30 {
        let event = event("orders.placed")
            .source("/shop")
            .key(format!("k{}", n % 3));
        let event = event
            .data(Data::json(format!("{{ \"n\":  {n} }}")))
            .build()
            .unwrap();
        from.publish(&event).await.unwrap();
        published.push(event);
    }
    from.forward("to-target", "orders.*", &target)
        .await
        .unwrap();
    until(|| forwarded(&from) == 30).await;
    let arrived = stored(&target).await;
    assert_eq!(arrived.len(), 30);
    for key in ["k0", "k1", "k2"] {
        let of = |all: &[Event]| {
            let some = all.iter().filter(|event| event.key() == Some(key));
            some.cloned().collect::<Vec<_>>()
        };
        assert_eq!(of(&arrived), of(&published), "key {key}");
    }
    from.shutdown(Duration::ZERO).await.unwrap();
    assert!(target.metrics().contains("fanfare_events_published_total"));
}

#[tokio::test]
async fn a_target_that_is_away_costs_no_attempt_and_the_health_tells() {
    let (from, clock) = bus();
    let (target, faults) = faulty(&clock);
    fail(&faults, ErrorKind::Unavailable, 60);
    from.publish(event("a.b")).await.unwrap();
    from.forward("to-target", "**", &target).await.unwrap();
    let failures = || from.telemetry().forwarding(&name()).failures.get();
    moving(&clock, || failures() > 0).await;
    let health = from.health().await;
    assert!(
        !health.ok && health.failing[0].1.contains("made to fail"),
        "{health:?}"
    );
    moving(&clock, || forwarded(&from) == 1).await;
    assert!(from.health().await.ok);
    let dead = from.backend().dead_letters();
    let letters = dead.list(&DeadLetterFilter::default(), None, 10).await;
    assert!(letters.unwrap().items.is_empty());
    from.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn what_the_target_does_not_take_is_given_back_uncounted() {
    let (from, clock) = bus();
    let (target, faults) = faulty(&clock);
    fail(&faults, ErrorKind::Full, 1_000_000);
    from.publish(event("a.b")).await.unwrap();
    from.forward("to-target", "**", &target).await.unwrap();
    let released = || from.stats().subscriptions[0].released;
    moving(&clock, || released() >= 3).await;
    from.shutdown(Duration::ZERO).await.unwrap();
    assert_eq!(from.stats().subscriptions.len(), 0);
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_target_that_is_away() {
    let clock = clock();
    let from = Bus::builder(backend(&clock)).clock(clock.clone());
    let from = from.closes_backend(false).build().unwrap();
    let (target, faults) = faulty(&clock);
    fail(&faults, ErrorKind::Unavailable, 1_000_000);
    from.publish(event("a.b")).await.unwrap();
    from.forward("to-target", "**", &target).await.unwrap();
    let failures = || from.telemetry().forwarding(&name()).failures.get();
    moving(&clock, || failures() > 0).await;
    let report = within(from.shutdown(Duration::from_hours(1)))
        .await
        .unwrap();
    assert_eq!((report.cut_off, report.unsettled), (0, 0));
    // Somebody else gets it at once, as a first attempt.
    let heir = Bus::builder(Arc::clone(from.backend()))
        .clock(clock.clone())
        .build()
        .unwrap();
    let (saw, mut seen) = seen();
    let heard = heir
        .subscribe("to-target", "**")
        .ordered()
        .handle(move |Attempt(n): Attempt| {
            let saw = saw.clone();
            async move { saw.send(n).await }
        });
    heard.await.unwrap();
    assert_eq!(seen.next().await, 1);
}

#[tokio::test]
async fn an_unknown_outcome_is_published_again_and_stored_once() {
    let (from, clock) = bus();
    let (target, faults) = faulty(&clock);
    faults.publish.lock().push_back(Fault::LosesAnswer);
    from.publish(event("a.b")).await.unwrap();
    from.forward("to-target", "**", &target).await.unwrap();
    moving(&clock, || forwarded(&from) == 1).await;
    assert_eq!(stored(&target).await.len(), 1);
    assert_eq!(from.telemetry().forwarding(&name()).duplicates.get(), 1);
    let metrics = from.metrics();
    let line = "fanfare_forward_duplicates_total{subscription=\"to-target\"} 1";
    assert!(metrics.contains(line), "{metrics}");
    from.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn what_the_target_can_never_take_is_a_dead_letter_here() {
    let (from, clock) = bus();
    let limits = fanfare_bus::Limits {
        data_bytes: 10,
        ..fanfare_bus::Limits::default()
    };
    let target = Bus::builder(backend(&clock)).clock(clock.clone());
    let target = target.limits(limits).build().unwrap();
    from.forward("to-target", "**", &target).await.unwrap();
    from.publish(event("a.large").data(Data::json("\"more than ten\"")))
        .await
        .unwrap();
    from.publish(event("a.small")).await.unwrap();
    let counters = from.telemetry().forwarding(&name());
    until(|| counters.forwarded.get() == 1 && counters.refused.get() == 1).await;
    let buried = || from.stats().subscriptions[0].dead == 1;
    until(buried).await;
    let dead = from.backend().dead_letters();
    let letters = dead
        .list(&DeadLetterFilter::default(), None, 10)
        .await
        .unwrap();
    let letter = &letters.items[0];
    assert_eq!((letter.reason.as_str(), letter.attempts), ("refused", 1));
    assert!(letter.error.contains("at most 10"), "{}", letter.error);
}

#[tokio::test]
async fn two_buses_that_forward_to_each_other_come_to_rest() {
    let (one, clock) = bus();
    let other = Bus::builder(backend(&clock))
        .clock(clock.clone())
        .build()
        .unwrap();
    one.forward("to-target", "**", &other).await.unwrap();
    other.forward("to-target", "**", &one).await.unwrap();
    for n in 0..20 {
        let at = if n % 2 == 0 { &one } else { &other };
        at.publish(event("a.b")).await.unwrap();
    }
    until(|| forwarded(&one) == 20 && forwarded(&other) == 20).await;
    for bus in [&one, &other] {
        assert_eq!(stored(bus).await.len(), 20);
    }
    // Neither keeps the other alive.
    let weak = Arc::downgrade(one.backend());
    drop((one, other));
    until(|| weak.strong_count() == 0).await;
}

#[tokio::test]
async fn only_wanted_events_are_forwarded_and_never_to_itself() {
    let (from, clock) = bus();
    let target = Bus::builder(backend(&clock))
        .clock(clock.clone())
        .build()
        .unwrap();
    let wanted = |event: &Event| event.key() != Some("private");
    from.forward("to-target", "**", &target)
        .filter(wanted)
        .await
        .unwrap();
    from.publish(event("a.b").key("private")).await.unwrap();
    from.publish(event("a.b").key("public")).await.unwrap();
    until(|| from.stats().subscriptions[0].acknowledged == 2).await;
    assert_eq!(acknowledged(&from).await, 2);
    assert_eq!(stored(&target).await.len(), 1);
    let refused = from.forward("again", "**", &from).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
}
