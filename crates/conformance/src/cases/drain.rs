//! Shutting a bus down: what runs, what waits, what comes after.

use std::sync::Arc;
use std::time::Duration;

use fanfare_bus::{Bus, Subscription};
use tokio::sync::Semaphore;

use crate::case::{Failure, Verdict, cases, require, require_eq, require_kind};
use crate::stage::{Stage, event};

cases! { "drain";
    what_runs_is_finished_and_the_rest_released: 20 + live;
    what_does_not_end_is_cut_off_and_given_back: 20 + live;
    shutting_down_twice_and_before_the_start_is_fine: 20 + live;
    nothing_is_taken_after_a_shutdown: 20 + live;
}

/// A subscription whose handlers say when they begin and end when they may.
struct Gated {
    started: Arc<Semaphore>,
    gate: Arc<Semaphore>,
    subscription: Subscription,
}

async fn gated(bus: &Bus) -> Verdict<Gated> {
    let (started, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
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
    Ok(Gated {
        subscription: bus.subscribe("all", "**").handle(handler).await?,
        started,
        gate,
    })
}

impl Gated {
    async fn one_runs(&self) -> Verdict {
        let running = self.started.acquire().await;
        running
            .map_err(|error| Failure::new(error.to_string()))?
            .forget();
        Ok(())
    }
}

async fn what_runs_is_finished_and_the_rest_released(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    let gated = gated(&bus).await?;
    stage.publish_many("orders.placed", 20).await?;
    gated.one_runs().await?;
    let (report, ()) = futures::join!(bus.shutdown(stage.patience), async {
        tokio::task::yield_now().await;
        gated.gate.add_permits(1);
    });
    require_eq!(report?.cut_off, 0, "handlers cut off");
    let counts = stage.counts(gated.subscription.name()).await?;
    require_eq!(
        (counts.acknowledged, counts.in_flight),
        (1, 0),
        "acknowledged, in flight"
    );
    let seat = stage.rejoin(gated.subscription.name()).await?;
    let came = seat.take(19).await?;
    let uncounted = came.iter().all(|delivery| delivery.attempt == 1);
    require!(uncounted, "a shutdown counted an attempt");
    seat.ack(&came).await
}

async fn what_does_not_end_is_cut_off_and_given_back(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    let gated = gated(&bus).await?;
    stage.publish_many("orders.placed", 1).await?;
    gated.one_runs().await?;
    let report = bus.shutdown(Duration::from_millis(100)).await?;
    require_eq!(
        (report.cut_off, report.unsettled),
        (1, 0),
        "cut off, unsettled"
    );
    // Its lease would have lasted longer than the case waits.
    let seat = stage.rejoin(gated.subscription.name()).await?;
    seat.finish(1).await?;
    Ok(())
}

async fn shutting_down_twice_and_before_the_start_is_fine(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    let (one, other) = futures::join!(bus.shutdown(stage.patience), bus.shutdown(stage.patience));
    require_eq!(one?, other?, "two reports");
    bus.shutdown(Duration::ZERO).await?;
    for _ in 0..20 {
        let bus = stage.bus()?;
        let (started, stopped) = futures::join!(gated(&bus), bus.shutdown(stage.patience));
        stopped?;
        require!(
            bus.stats().subscriptions.is_empty(),
            "a subscription outlived its bus"
        );
        drop(started);
    }
    Ok(())
}

async fn nothing_is_taken_after_a_shutdown(stage: &Stage) -> Verdict {
    let bus = stage.bus()?;
    let gated = gated(&bus).await?;
    gated.gate.add_permits(100);
    bus.shutdown(stage.patience).await?;
    let event = event("orders.placed")?.build()?;
    require_kind!(bus.publish(&event).await, Closed);
    require_kind!(bus.try_publish(&event), Closed);
    require_kind!(bus.publish_all(vec![event.clone()]).await, Closed);
    require!(
        bus.subscribe("late", "**")
            .handle(|| async {})
            .await
            .is_err(),
        "it subscribed"
    );
    stage.publish(&[event]).await?;
    let seat = stage.rejoin(gated.subscription.name()).await?;
    seat.finish(1).await?;
    require_eq!(
        gated.started.available_permits(),
        0,
        "handlers that ran afterwards"
    );
    Ok(())
}
