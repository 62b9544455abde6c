//! Waiting for local handlers: `publish_and_wait` and `emit`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fanfare_bus::handler::Outcome;
use fanfare_core::delivery::Settlement;
use fanfare_core::retry::RetryPolicy;
use parking_lot::Mutex;

use crate::case::{Verdict, cases, require, require_eq};
use crate::stage::{Stage, event};

cases! { "wait";
    each_local_subscription_tells_how_it_settled: 5 + live;
    a_retry_in_between_is_no_settlement: 5 + live;
    what_takes_longer_is_pending_and_goes_on: 5 + live;
    what_nobody_here_handles_is_not_waited_for: 5 + live;
    emit_runs_handlers_in_the_order_of_their_registration: 5 + live;
}

async fn each_local_subscription_tells_how_it_settled(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    bus.subscribe("acks", "orders.*")
        .handle(|| async {})
        .await?;
    bus.subscribe("drops", "**")
        .handle(|| async { Settlement::Drop })
        .await?;
    bus.subscribe("rejects", "**")
        .handle(|| async { Outcome::reject("no") })
        .await?;
    bus.subscribe("others", "users.*")
        .handle(|| async {})
        .await?;
    let event = event("orders.placed")?.build()?;
    let waited = bus.publish_and_wait(&event, stage.patience).await?;
    require!(waited.is_settled(), "not settled: {waited:?}");
    let settled: Vec<_> = waited
        .subscriptions
        .iter()
        .map(|one| {
            let kind = match &one.settled {
                Some((Settlement::Ack, 1)) => "ack",
                Some((Settlement::Drop, 1)) => "drop",
                Some((Settlement::DeadLetter { .. }, 1)) => "dead letter",
                _ => "something else",
            };
            (one.subscription.as_str(), kind)
        })
        .collect();
    let expected = [
        ("acks", "ack"),
        ("drops", "drop"),
        ("rejects", "dead letter"),
    ];
    require_eq!(settled, expected, "settlements");
    // What was said is what is kept.
    bus.shutdown(stage.patience).await?;
    let mut kept = Vec::new();
    for info in stage.backend.admin().list().await? {
        let counts = info.counts;
        kept.push((counts.acknowledged, counts.dropped, counts.dead));
    }
    require_eq!(
        kept,
        [(1, 0, 0), (0, 1, 0), (0, 0, 0), (0, 0, 1)],
        "counts kept"
    );
    Ok(())
}

async fn a_retry_in_between_is_no_settlement(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    let runs = Arc::new(AtomicU32::new(0));
    bus.subscribe("all", "**")
        .retry(RetryPolicy::fixed(5, Duration::from_millis(20)))
        .handle({
            let runs = runs.clone();
            move || {
                let run = runs.fetch_add(1, Ordering::Relaxed) + 1;
                async move { if run < 3 { Err("not yet") } else { Ok(()) } }
            }
        })
        .await?;
    let event = event("orders.placed")?.build()?;
    let waited = bus.publish_and_wait(&event, stage.patience).await?;
    let settled: Vec<_> = waited
        .subscriptions
        .into_iter()
        .map(|one| one.settled)
        .collect();
    require_eq!(
        settled,
        [Some((Settlement::Ack, 3))],
        "settlement and attempt"
    );
    bus.shutdown(stage.patience).await?;
    Ok(())
}

async fn what_takes_longer_is_pending_and_goes_on(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let begun = Arc::new(tokio::sync::Semaphore::new(0));
    bus.subscribe("slow", "**")
        .handle({
            let (gate, begun) = (gate.clone(), begun.clone());
            move || {
                let (gate, begun) = (gate.clone(), begun.clone());
                async move {
                    begun.add_permits(1);
                    if let Ok(permit) = gate.acquire().await {
                        permit.forget();
                    }
                }
            }
        })
        .await?;
    let event = event("orders.placed")?.build()?;
    let waited = bus
        .publish_and_wait(&event, Duration::from_millis(50))
        .await?;
    require!(!waited.published.duplicate, "not stored: {waited:?}");
    let settled: Vec<_> = waited
        .subscriptions
        .into_iter()
        .map(|one| one.settled)
        .collect();
    require_eq!(settled, [None], "settlement at the deadline");
    // A shutdown begins nothing that had not begun.
    drop(begun.acquire().await);
    gate.add_permits(1);
    bus.shutdown(stage.patience).await?;
    for info in stage.backend.admin().list().await? {
        require_eq!(info.counts.acknowledged, 1, "acknowledged in the end");
    }
    Ok(())
}

async fn what_nobody_here_handles_is_not_waited_for(stage: &Stage) -> Verdict {
    let elsewhere = stage.join_new("elsewhere", "**").await?;
    let bus = stage.bus()?;
    let event = event("orders.placed")?.build()?;
    let started = stage.clock.now();
    let waited = bus.publish_and_wait(&event, stage.patience).await?;
    require_eq!(waited.subscriptions.len(), 0, "subscriptions waited for");
    let took = stage.clock.now().since(started);
    require!(took < stage.patience, "waited {took:?} for nobody");
    elsewhere.finish(1).await?;
    bus.shutdown(stage.patience).await?;
    Ok(())
}

async fn emit_runs_handlers_in_the_order_of_their_registration(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    let ran = Arc::new(Mutex::new(Vec::new()));
    for name in ["c", "a", "b", "deaf"] {
        let pattern = if name == "deaf" { "users.*" } else { "**" };
        let ran = ran.clone();
        let handler = move || {
            ran.lock().push(name);
            async move { if name == "a" { Err("a fails") } else { Ok(()) } }
        };
        bus.subscribe(name, pattern).handle(handler).await?;
    }
    let event = event("orders.placed")?.build()?;
    let emitted = bus.emit(&event).await?;
    require_eq!(*ran.lock(), ["c", "a", "b"], "handlers that ran");
    let fared = emitted
        .handlers
        .iter()
        .map(|(name, how)| (name.as_str(), how.is_ack()));
    let fared: Vec<_> = fared.collect();
    require_eq!(
        fared,
        [("c", true), ("a", false), ("b", true)],
        "how they fared"
    );
    require_eq!(
        stage.backend.admin().stats().await?.events,
        0,
        "events stored"
    );
    bus.shutdown(stage.patience).await?;
    Ok(())
}
