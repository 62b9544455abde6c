//! Many events on several threads: nothing lost, nothing invented, keys in order, and start and
//! stop at any moment.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fanfare_bus::{Attempt, Bus, Outcome};
use fanfare_core::clock::Clock;
use fanfare_core::data::Data;
use fanfare_core::delivery::Settlement;
use fanfare_core::event::Event;
use fanfare_core::retry::RetryPolicy;
use parking_lot::Mutex;

use crate::harness::{backend, event, within};

fn bus() -> Bus {
    let clock = Clock::system();
    Bus::builder(backend(&clock)).clock(clock).build().unwrap()
}

fn quick(attempts: u32) -> RetryPolicy {
    RetryPolicy::fixed(attempts, Duration::from_millis(1))
}

/// Waits until the subscription's counters say that `n` deliveries ended.
async fn ended(subscription: &fanfare_bus::Subscription, n: u64) {
    within(async {
        loop {
            let stats = subscription.stats();
            if stats.acknowledged + stats.dead + stats.dropped == n {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_event_ends_once_for_each_subscription() {
    const EVENTS: u64 = 5_000;
    let bus = bus();
    let flaky = |Attempt(n): Attempt, event: Event| async move {
        let id: u64 = std::str::from_utf8(event.bytes()).unwrap().parse().unwrap();
        if id.is_multiple_of(3) {
            tokio::task::yield_now().await;
        }
        match (id % 7, n) {
            (0, _) => Outcome::Fail("for good".into()),
            (1, 1) => Outcome::Fail("once".into()),
            (2, _) => Outcome::Settle(Settlement::Drop),
            _ => Outcome::Ack,
        }
    };
    let mut subscriptions = Vec::new();
    for (name, concurrency) in [("one", 1), ("some", 7), ("many", 64)] {
        let builder = bus.subscribe(name, "stress.*");
        let builder = builder.concurrency(concurrency).retry(quick(3));
        subscriptions.push(builder.handle(flaky).await.unwrap());
    }
    for chunk in (0..EVENTS).collect::<Vec<_>>().chunks(50) {
        let batch = chunk
            .iter()
            .map(|n| event("stress.a").data(Data::json(n.to_string())).build());
        let answers = bus.publish_all(batch.map(Result::unwrap).collect()).await;
        assert!(answers.unwrap().iter().all(Result::is_ok));
    }
    for subscription in &subscriptions {
        ended(subscription, EVENTS).await;
        let stats = subscription.stats();
        let of = |rest: u64| (0..EVENTS).filter(|n| n % 7 == rest).count() as u64;
        assert_eq!((stats.dead, stats.dropped), (of(0), of(2)));
        assert_eq!((stats.retried, stats.refused), (of(0) * 2 + of(1), 0));
    }
    for audited in bus.backend().admin().audit(None).await.unwrap() {
        assert!(
            audited.counts.balanced() && audited.counts.unsettled() == 0,
            "{audited:?}"
        );
    }
    within(bus.shutdown(Duration::from_secs(5))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn events_of_a_key_are_handled_one_at_a_time_in_order() {
    const KEYS: u64 = 20;
    const EVENTS: u64 = 2_000;
    let bus = bus();
    let seen: Arc<Mutex<HashMap<String, Vec<u64>>>> = Arc::default();
    let running: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let overlaps = Arc::new(AtomicU64::new(0));
    let handler = {
        let (seen, running, overlaps) = (
            Arc::clone(&seen),
            Arc::clone(&running),
            Arc::clone(&overlaps),
        );
        move |Attempt(n): Attempt, event: Event| {
            let (seen, running, overlaps) = (
                Arc::clone(&seen),
                Arc::clone(&running),
                Arc::clone(&overlaps),
            );
            async move {
                let key = event.key().unwrap().to_owned();
                let id: u64 = std::str::from_utf8(event.bytes()).unwrap().parse().unwrap();
                let before = std::mem::replace(running.lock().entry(key.clone()).or_default(), 1);
                overlaps.fetch_add(u64::from(before), Ordering::Relaxed);
                tokio::task::yield_now().await;
                running.lock().insert(key.clone(), 0);
                let fails = id.is_multiple_of(13) && n == 1;
                let handled = (!fails).then_some(id).ok_or("once")?;
                seen.lock().entry(key).or_default().push(handled);
                Ok::<_, &str>(())
            }
        }
    };
    let builder = bus.subscribe("ordered", "*").ordered().concurrency(16);
    let subscription = builder.retry(quick(3)).handle(handler).await.unwrap();
    for n in 0..EVENTS {
        let event = event("a").key((n % KEYS).to_string());
        bus.publish(event.data(Data::json(n.to_string())))
            .await
            .unwrap();
    }
    ended(&subscription, EVENTS).await;
    assert_eq!(overlaps.load(Ordering::Relaxed), 0);
    let seen = seen.lock();
    for key in 0..KEYS {
        let expected: Vec<u64> = (0..EVENTS).filter(|n| n % KEYS == key).collect();
        assert_eq!(seen[&key.to_string()], expected, "key {key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn start_and_stop_at_any_moment_lose_nothing() {
    const EVENTS: u64 = 500;
    const ROUNDS: u32 = 20;
    let clock = Clock::system();
    let backend = backend(&clock);
    let start = || {
        Bus::builder(backend.clone())
            .clock(clock.clone())
            .closes_backend(false)
            .build()
            .unwrap()
    };
    let publisher = start();
    let handled = Arc::new(AtomicU64::new(0));
    let count = {
        let handled = Arc::clone(&handled);
        move || {
            let handled = Arc::clone(&handled);
            async move {
                tokio::task::yield_now().await;
                handled.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let join = |bus: Bus| {
        let count = count.clone();
        async move { bus.subscribe("s", "*").concurrency(4).handle(count).await }
    };
    // Created before anything is published.
    join(publisher.clone()).await.unwrap();
    for round in 0..ROUNDS {
        let bus = start();
        let joined = tokio::spawn(join(bus.clone()));
        for _ in 0..EVENTS / u64::from(ROUNDS) {
            publisher.publish(event("a")).await.unwrap();
        }
        if round % 2 == 0 {
            within(bus.shutdown(Duration::from_secs(5))).await.unwrap();
            let _ = joined.await.unwrap();
        } else {
            // Dropped without a word, in the middle of its work.
            drop(joined.await.unwrap());
        }
    }
    // What a dropped bus held is released by its tasks, a moment later.
    within(async {
        while counts(&backend).await.unsettled() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(handled.load(Ordering::Relaxed) >= EVENTS);
    within(publisher.shutdown(Duration::from_secs(5)))
        .await
        .unwrap();
    let counts = counts(&backend).await;
    assert!(counts.balanced(), "{counts:?}");
    assert_eq!(counts.acknowledged, EVENTS);
}

async fn counts(backend: &Arc<fanfare_memory::MemoryBackend>) -> fanfare_core::admin::Counts {
    use fanfare_core::backend::Backend;
    backend.admin().audit(None).await.unwrap()[0].counts
}
