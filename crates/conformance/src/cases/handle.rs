//! Handlers through the bus: failures, panics, choices, heartbeats, bounds.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use fanfare_bus::handler::Outcome;
use fanfare_bus::telemetry::SubscriptionStats;
use fanfare_bus::{Attempt, Bus, RedriveOptions, Router, Subscription, Unhandled};
use fanfare_core::dead_letter::{DeadLetter, DeadLetterFilter};
use fanfare_core::delivery::Settlement;
use fanfare_core::event::Event;
use fanfare_core::retry::RetryPolicy;
use fanfare_core::timestamp::Timestamp;
use futures::future::select_all;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::case::{Failure, Verdict, cases, require, require_eq};
use crate::stage::{Stage, dead, event, every_letter, keyed, number, ordered};

cases! { "handle";
    a_failing_handler_is_retried_and_then_given_up: 14 + live;
    retries_wait_as_the_policy_says: 14 + live;
    a_panic_is_a_failure_and_stops_nothing: 14 + live;
    a_handler_chooses_how_a_delivery_ends: 14 + live;
    out_of_attempts_is_dropped_where_dead_letters_are_off: 14 + live;
    a_heartbeat_keeps_a_long_delivery: 8 + live;
    a_handler_that_outlasts_three_leases_runs_once: 8 + live;
    a_handler_holds_no_more_than_its_prefetch: 13 + live;
    handlers_keep_the_order_of_keys: 11 + live;
    an_event_without_a_route_ends_as_the_subscription_says: 14 + live;
    a_redrive_through_the_bus_keeps_to_limit_rate_and_dry_run: 15 + live;
    a_broadcast_hears_what_happens_from_now_on: 24 + live;
}

impl Stage {
    async fn only_letter(&self) -> Verdict<DeadLetter> {
        let letters = self.backend.dead_letters();
        let mut found = letters
            .list(&DeadLetterFilter::default(), None, 10)
            .await?
            .items;
        require_eq!(found.len(), 1, "dead letters");
        found.pop().ok_or_else(|| Failure::new("no dead letter"))
    }

    /// Waits until `subscription` has settled so many events for good, and ends the bus.
    async fn settled(&self, bus: &Bus, subscription: &Subscription, events: u64) -> Verdict {
        self.waits_for(subscription, events).await?;
        bus.shutdown(self.patience).await?;
        Ok(())
    }

    async fn waits_for(&self, subscription: &Subscription, events: u64) -> Verdict {
        let all = subscription.until(|stats| ended(stats) >= events);
        tokio::select! {
            () = all => {}
            () = self.clock.sleep(self.patience) => {
                let stats = subscription.stats();
                return Err(Failure::new(format!("not everything is settled: {stats:?}")));
            }
        }
        let left = self.counts(subscription.name()).await?.unsettled();
        require_eq!(left, 0, "unsettled");
        Ok(())
    }
}

/// Deliveries that ended for good.
fn ended(stats: &SubscriptionStats) -> u64 {
    stats.acknowledged + stats.dropped + stats.dead
}

async fn a_failing_handler_is_retried_and_then_given_up(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let subscription = bus
        .subscribe("all", "**")
        .retry(RetryPolicy::fixed(3, Duration::from_millis(20)))
        .handle({
            let attempts = attempts.clone();
            move |Attempt(n): Attempt| {
                attempts.lock().push(n);
                async move { Err::<(), _>(format!("failed for the {n}th time")) }
            }
        })
        .await?;
    let published = stage.publish_many("orders.placed", 1).await?;
    stage.settled(&bus, &subscription, 1).await?;
    require_eq!(*attempts.lock(), [1, 2, 3], "attempts");
    let letter = stage.only_letter().await?;
    require_eq!(letter.reason, "max_attempts", "reason");
    require_eq!(letter.error, "failed for the 3th time", "error");
    require_eq!(letter.attempts, 3, "attempts kept");
    require_eq!(letter.body.event(), published.first(), "event");
    Ok(())
}

async fn retries_wait_as_the_policy_says(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    let times: Arc<Mutex<Vec<Timestamp>>> = Arc::default();
    let policy = RetryPolicy {
        max_attempts: 4,
        initial: Duration::from_millis(100),
        factor: 2.0,
        max: Duration::from_millis(300),
        jitter: false,
    };
    let subscription = bus
        .subscribe("all", "**")
        .retry(policy)
        .handle({
            let (times, clock) = (times.clone(), stage.clock.clone());
            move || {
                times.lock().push(clock.now());
                async { Err::<(), _>("no") }
            }
        })
        .await?;
    stage.publish_many("orders.placed", 1).await?;
    stage.settled(&bus, &subscription, 1).await?;
    let times = times.lock().clone();
    let pauses = times
        .iter()
        .zip(times.iter().skip(1))
        .map(|(a, b)| b.since(*a));
    let pauses: Vec<_> = pauses.collect();
    require_eq!(pauses.len(), 3, "pauses");
    for (pause, least) in pauses.iter().zip([100, 200, 300]) {
        let least = Duration::from_millis(least);
        require!(*pause >= least, "waited {pause:?} instead of {least:?}");
    }
    Ok(())
}

async fn a_panic_is_a_failure_and_stops_nothing(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    let subscription = bus
        .subscribe("all", "**")
        .retry(RetryPolicy::fixed(2, Duration::from_millis(10)))
        .handle(|event: Event| async move {
            if event.bytes() == b"1" {
                // As a panic, but without its message on the terminal.
                resume_unwind(Box::new("the handler fell over"));
            }
        })
        .await?;
    stage.publish_many("orders.placed", 5).await?;
    stage.settled(&bus, &subscription, 5).await?;
    let letter = stage.only_letter().await?;
    require!(
        letter.error.contains("the handler fell over"),
        "error: {}",
        letter.error
    );
    require_eq!(letter.attempts, 2, "attempts");
    let counts = stage.counts(subscription.name()).await?;
    require_eq!(
        (counts.acknowledged, counts.dead),
        (4, 1),
        "acknowledged, dead"
    );
    Ok(())
}

async fn a_handler_chooses_how_a_delivery_ends(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    let subscription = bus
        .subscribe("all", "**")
        .handle(|event: Event, Attempt(n): Attempt| async move {
            match (event.bytes(), n) {
                (b"0", _) => Outcome::Settle(Settlement::Drop),
                (b"1", _) => Outcome::Settle(Settlement::DeadLetter {
                    reason: "unwanted".into(),
                    error: "nobody asked".into(),
                }),
                (b"2", 1) => Outcome::Settle(Settlement::Retry {
                    after: Duration::ZERO,
                    error: "once more".into(),
                }),
                _ => Outcome::Ack,
            }
        })
        .await?;
    stage.publish_many("orders.placed", 4).await?;
    stage.settled(&bus, &subscription, 4).await?;
    let letter = stage.only_letter().await?;
    require_eq!(
        (&*letter.reason, &*letter.error),
        ("unwanted", "nobody asked"),
        "letter"
    );
    let counts = stage.counts(subscription.name()).await?;
    let all = (counts.acknowledged, counts.dropped, counts.dead);
    require_eq!(all, (2, 1, 1), "acknowledged, dropped, dead");
    Ok(())
}

async fn out_of_attempts_is_dropped_where_dead_letters_are_off(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    let subscription = bus
        .subscribe("all", "**")
        .retry(RetryPolicy::fixed(2, Duration::ZERO))
        .dead_letter(false)
        .handle(|| async { Err::<(), _>("no") })
        .await?;
    stage.publish_many("orders.placed", 3).await?;
    stage.settled(&bus, &subscription, 3).await?;
    let counts = stage.counts(subscription.name()).await?;
    require_eq!((counts.dropped, counts.dead), (3, 0), "dropped, dead");
    Ok(())
}

async fn a_heartbeat_keeps_a_long_delivery(stage: &Stage) -> Verdict {
    // A machine may be too busy for a heartbeat now and then; not three times running.
    for round in 0..3 {
        if keeps_a_long_delivery(stage, &format!("round-{round}")).await? {
            return Ok(());
        }
    }
    Err(Failure::new(
        "a delivery was taken from a handler that was at work",
    ))
}

/// Whether a handler keeps its delivery for longer than the lease while another member waits.
async fn keeps_a_long_delivery(stage: &Stage, name: &str) -> Verdict<bool> {
    let bus = stage.bus()?;
    let (started, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let lease = Duration::from_secs(1);
    let handler = {
        let (started, gate) = (started.clone(), gate.clone());
        move || {
            let (started, gate) = (started.clone(), gate.clone());
            async move {
                started.add_permits(1);
                if let Ok(permit) = gate.acquire().await {
                    permit.forget();
                }
            }
        }
    };
    let subscription = bus
        .subscribe(name, "**")
        .lease(lease)
        .handle(handler)
        .await?;
    stage.publish_many("orders.placed", 1).await?;
    let running = started.acquire().await;
    running
        .map_err(|error| Failure::new(error.to_string()))?
        .forget();
    let other = stage.rejoin(subscription.name()).await?;
    let taken = other.consumer.receive(1, lease * 5 / 2).await?;
    // Every attempt ends.
    gate.close();
    if !taken.is_empty() {
        other.ack(&taken).await?;
        bus.shutdown(stage.patience).await?;
        return Ok(false);
    }
    stage.settled(&bus, &subscription, 1).await?;
    if started.available_permits() > 0 {
        return Ok(false);
    }
    require_eq!(
        stage.counts(subscription.name()).await?.acknowledged,
        1,
        "acknowledged"
    );
    Ok(true)
}

async fn a_handler_that_outlasts_three_leases_runs_once(stage: &Stage) -> Verdict {
    // As above: a machine may be too busy for a heartbeat now and then.
    for round in 0..3 {
        if runs_once(stage, &format!("round-{round}")).await? {
            return Ok(());
        }
    }
    Err(Failure::new(
        "a handler at work was started again elsewhere",
    ))
}

/// Whether a handler of 5 s runs once on a lease of 1 s, while a second bus would take it.
async fn runs_once(stage: &Stage, name: &str) -> Verdict<bool> {
    let runs = Arc::new(Semaphore::new(0));
    let handler = {
        let (runs, clock) = (runs.clone(), stage.clock.clone());
        move || {
            let clock = clock.clone();
            runs.add_permits(1);
            async move { clock.sleep(Duration::from_secs(5)).await }
        }
    };
    let buses = [stage.bus()?, stage.bus()?];
    let mut subscriptions = Vec::new();
    for bus in &buses {
        let builder = bus.subscribe(name, "**").lease(Duration::from_secs(1));
        subscriptions.push(builder.handle(handler.clone()).await?);
    }
    stage.publish_many("orders.placed", 1).await?;
    let settled = subscriptions.iter().map(|subscription| {
        let one = subscription.until(|stats| ended(stats) == 1);
        Box::pin(one)
    });
    let once = tokio::select! {
        _ = select_all(settled) => runs.available_permits() == 1,
        _ = runs.acquire_many(2) => false,
    };
    for bus in buses {
        bus.shutdown(Duration::ZERO).await?;
    }
    stage.backend.admin().delete(&name.parse()?, true).await?;
    Ok(once)
}

async fn a_handler_holds_no_more_than_its_prefetch(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    let gate = Arc::new(Semaphore::new(0));
    let started = Arc::new(Semaphore::new(0));
    let subscription = bus
        .subscribe("all", "**")
        .prefetch(3)
        .concurrency(2)
        .handle({
            let (gate, started) = (gate.clone(), started.clone());
            move || {
                let (gate, started) = (gate.clone(), started.clone());
                async move {
                    started.add_permits(1);
                    if let Ok(permit) = gate.acquire().await {
                        permit.forget();
                    }
                }
            }
        })
        .await?;
    stage.publish_many("orders.placed", 200).await?;
    let one_starts = async || -> Verdict {
        let running = started.acquire().await;
        running
            .map_err(|error| Failure::new(error.to_string()))?
            .forget();
        Ok(())
    };
    one_starts().await?;
    // Whenever there is room for one more, one is asked for.
    for _ in 0..30 {
        one_starts().await?;
        let held = stage.counts(subscription.name()).await?.in_flight;
        require!(held <= 3, "{held} deliveries held with a prefetch of 3");
        gate.add_permits(1);
    }
    gate.add_permits(170);
    stage.settled(&bus, &subscription, 200).await?;
    Ok(())
}

async fn handlers_keep_the_order_of_keys(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    let seen: Arc<Mutex<Vec<(String, u64, bool)>>> = Arc::default();
    let spec = ordered("all", "**")?;
    let subscription = bus
        .subscribe(spec.name.as_str(), "**")
        .ordered()
        .concurrency(8)
        .retry(RetryPolicy::fixed(10, Duration::from_millis(5)))
        .handle({
            let seen = seen.clone();
            move |event: Event, Attempt(n): Attempt| {
                let place = number(&event).unwrap_or(u64::MAX);
                let fails = place % 7 == 3 && n < 3;
                seen.lock()
                    .push((event.key().unwrap_or_default().to_owned(), place, fails));
                async move { if fails { Err("not yet") } else { Ok(()) } }
            }
        })
        .await?;
    stage
        .publish(&keyed("orders.placed", &["a", "b", "c"], 30)?)
        .await?;
    stage.settled(&bus, &subscription, 90).await?;
    for key in ["a", "b", "c"] {
        let seen = seen.lock();
        let done = seen.iter().filter(|(of, _, fails)| of == key && !fails);
        let places: Vec<_> = done.map(|(_, place, _)| *place).collect();
        require_eq!(places, (0..30).collect::<Vec<_>>(), "order of key {key}");
    }
    Ok(())
}

async fn an_event_without_a_route_ends_as_the_subscription_says(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    let mut subscriptions = Vec::new();
    for (name, unhandled) in [("acks", Unhandled::Ack), ("keeps", Unhandled::DeadLetter)] {
        let router = Router::new().route("orders.placed", || async {});
        let builder = bus.subscribe(name, "orders.*").unhandled(unhandled);
        subscriptions.push(builder.router(router).await?);
    }
    stage.publish_many("orders.placed", 2).await?;
    stage.publish_many("orders.gone", 1).await?;
    for subscription in &subscriptions {
        stage.waits_for(subscription, 3).await?;
    }
    bus.shutdown(stage.patience).await?;
    require_eq!(stage.only_letter().await?.reason, "unhandled", "reason");
    for (subscription, expected) in subscriptions.iter().zip([(3, 0), (2, 1)]) {
        let counts = stage.counts(subscription.name()).await?;
        require_eq!(
            (counts.acknowledged, counts.dead),
            expected,
            "acknowledged, dead"
        );
    }
    Ok(())
}

async fn a_redrive_through_the_bus_keeps_to_limit_rate_and_dry_run(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 30).await?;
    for delivery in seat.take(30).await? {
        seat.settle(&delivery, dead("rejected")).await?;
    }
    let bus = stage.bus()?;
    let mut options = RedriveOptions {
        dry_run: true,
        ..RedriveOptions::default()
    };
    let foretold = bus.redrive(every_letter(), options).await?;
    require_eq!(
        (foretold.matched, foretold.done),
        (30, 0),
        "matched, done of a dry run"
    );
    seat.nothing().await?;
    options.dry_run = false;
    options.limit = Some(10);
    require_eq!(
        bus.redrive(every_letter(), options).await?.done,
        10,
        "redriven of 10"
    );
    seat.finish(10).await?;
    options.limit = None;
    options.rate = Some(50);
    let started = stage.clock.now();
    require_eq!(
        bus.redrive(every_letter(), options).await?.done,
        20,
        "the rest"
    );
    let took = stage.clock.now().since(started);
    let least = Duration::from_millis(250);
    require!(took >= least, "20 at 50 a second took {took:?}");
    seat.finish(20).await?;
    bus.shutdown(stage.patience).await?;
    Ok(())
}

async fn a_broadcast_hears_what_happens_from_now_on(stage: &Stage) -> Verdict {
    stage.publish_many("orders.before", 3).await?;
    let bus = stage.bus()?;
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let broadcasts = ["orders.*", "**"].map(|pattern| {
        let heard = heard.clone();
        bus.on(pattern).handle(move |event: Event| {
            heard.lock().push(event.event_type().to_string());
            async {}
        })
    });
    for started in broadcasts {
        started.await?;
    }
    let event = event("orders.now")?.build()?;
    let waited = bus.publish_and_wait(&event, stage.patience).await?;
    require!(waited.is_settled(), "not settled: {waited:?}");
    require_eq!(
        *heard.lock(),
        ["orders.now", "orders.now"],
        "events heard by two"
    );
    require_eq!(
        stage.backend.admin().list().await?.len(),
        0,
        "subscriptions stored"
    );
    bus.shutdown(stage.patience).await?;
    Ok(())
}
