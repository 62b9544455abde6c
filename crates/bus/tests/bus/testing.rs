//! What programs use to test themselves.

use std::time::Duration;

use fanfare_bus::testing::{TestBus, check_published, clock};
use fanfare_bus::{Attempt, Bus, assert_published};
use fanfare_core::clock::Clock;
use fanfare_core::retry::RetryPolicy;

use crate::harness::{backend, event};

fn test_bus() -> (TestBus, Clock) {
    let clock = clock();
    (TestBus::on(backend(&clock), clock.clone()).unwrap(), clock)
}

#[tokio::test]
async fn publishing_returns_when_the_handlers_are_done() {
    let (bus, _) = test_bus();
    bus.subscribe("chain", "a")
        .handle(|bus: Bus| async move { bus.publish(event("b")).await.map(|_| ()) })
        .await
        .unwrap();
    bus.publish(event("a")).await.unwrap();
    assert_published!(bus, "b");
    assert_published!(bus, "a", |n: u32| n == 1);
    let none = check_published(&bus, "c", |_| true).await.unwrap_err();
    assert!(none.contains("\n  a 1\n  b 1"), "{none}");
}

#[tokio::test]
async fn retries_are_waited_for_by_moving_the_clock() {
    let (bus, clock) = test_bus();
    let before = clock.now();
    bus.subscribe("s", "*")
        .retry(RetryPolicy::fixed(2, Duration::from_mins(1)))
        .handle(|Attempt(n): Attempt| async move { Err::<(), _>(format!("failed {n}")) })
        .await
        .unwrap();
    bus.publish(event("a")).await.unwrap();
    let letters = bus.dead_letters().await.unwrap();
    assert_eq!(letters[0].error, "failed 2");
    assert!(clock.now().since(before) >= Duration::from_mins(1));
}
