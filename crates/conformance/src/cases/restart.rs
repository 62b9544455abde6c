//! Closing and opening the same stream again: all that was acknowledged is still there.

use std::time::Duration;

use bytes::Bytes;
use fanfare_core::capability::Dedup;
use fanfare_core::dead_letter::{DeadLetterFilter, Selection};
use fanfare_core::delivery::{Settled, Settlement};
use fanfare_core::pattern::PatternSet;

use crate::case::{Failure, Verdict, cases, require, require_eq};
use crate::stage::{Stage, dead, events, require_same, retry, spec};

cases! { "restart";
    acknowledged_events_outlive_a_restart: 1, Durable;
    settlements_outlive_a_restart: 1, Durable;
    subscriptions_outlive_a_restart: 1, Durable;
    dead_letters_outlive_a_restart: 1, Durable;
    waiting_retries_outlive_a_restart: 10, Durable;
    duplicates_are_known_after_a_restart: 2, Durable;
    state_outlives_a_restart: 1, Durable;
    what_was_leased_comes_back_at_once_after_a_close: 20, Durable;
    receipts_from_before_a_restart_are_refused: 8, Durable;
    positions_go_on_after_a_restart: 1, Durable;
    order_holds_across_a_restart: 11, Durable;
}

async fn acknowledged_events_outlive_a_restart(stage: &mut Stage) -> Verdict {
    let name = stage.join_new("all", "**").await?.subscription;
    let published = stage.publish_many("orders.placed", 500).await?;
    stage.restart().await?;
    require_same(&stage.rejoin(&name).await?.finish(500).await?, &published)
}

async fn settlements_outlive_a_restart(stage: &mut Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 100).await?;
    let taken = seat.take(60).await?;
    let (acked, dropped) = taken.split_at(50);
    seat.ack(acked).await?;
    for delivery in dropped {
        seat.settle(delivery, Settlement::Drop).await?;
    }
    let before = stage.counts(&seat.subscription).await?;
    stage.restart().await?;
    require_eq!(stage.counts(&seat.subscription).await?, before, "counts");
    stage.rejoin(&seat.subscription).await?.finish(40).await?;
    Ok(())
}

async fn subscriptions_outlive_a_restart(stage: &mut Stage) -> Verdict {
    let mut wanted = stage.startable(&spec("all", "orders.*")?);
    wanted.retry.max_attempts = 7;
    wanted.lease = Duration::from_secs(17);
    let seat = stage.join(&wanted).await?;
    let name = &seat.subscription;
    wanted.patterns = PatternSet::parse(["users.**"])?;
    stage
        .backend
        .admin()
        .set_patterns(name, wanted.patterns.clone())
        .await?;
    stage.backend.admin().set_paused(name, true).await?;
    stage.join_new("gone", "**").await?;
    stage
        .backend
        .admin()
        .delete(&spec("gone", "**")?.name, true)
        .await?;
    stage.restart().await?;
    let listed = stage.backend.admin().list().await?;
    require_eq!(listed.len(), 1, "subscriptions");
    for info in listed {
        require_eq!(info.spec, wanted, "spec");
        require!(info.paused, "no longer paused");
    }
    stage.publish_many("orders.placed", 3).await?;
    stage.publish_many("users.created", 3).await?;
    stage.backend.admin().set_paused(name, false).await?;
    stage.rejoin(name).await?.finish(3).await?;
    Ok(())
}

async fn dead_letters_outlive_a_restart(stage: &mut Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 3).await?;
    for delivery in seat.take(3).await? {
        seat.settle(&delivery, dead("rejected")).await?;
    }
    let filter = DeadLetterFilter::default();
    let before = stage.backend.dead_letters().list(&filter, None, 10).await?;
    stage.restart().await?;
    let after = stage.backend.dead_letters().list(&filter, None, 10).await?;
    require_eq!(format!("{after:?}"), format!("{before:?}"), "dead letters");
    let every = Selection::Filter(filter);
    require_eq!(
        stage.backend.dead_letters().redrive(&every, 10).await?.done,
        3,
        "redriven"
    );
    stage.restart().await?;
    require_eq!(
        stage.backend.dead_letters().count(&every).await?,
        0,
        "letters left"
    );
    stage.rejoin(&seat.subscription).await?.finish(3).await?;
    Ok(())
}

async fn waiting_retries_outlive_a_restart(stage: &mut Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 2).await?;
    let taken = seat.take(2).await?;
    let delay = Duration::from_millis(700);
    let asked = stage.clock.now();
    for (delivery, after) in taken.iter().zip([delay, Duration::from_hours(1)]) {
        seat.settle(delivery, retry(after)).await?;
    }
    stage.restart().await?;
    let seat = stage.rejoin(&seat.subscription).await?;
    let again = seat.one().await?;
    let waited = stage.clock.now().since(asked);
    // Due times may be kept to the millisecond.
    let due = delay.saturating_sub(Duration::from_millis(1));
    require!(waited >= due, "came after {waited:?}, asked for {delay:?}");
    require_eq!(again.attempt, 2, "attempt");
    seat.ack(&[again]).await?;
    seat.nothing().await?;
    require_eq!(
        stage.counts(&seat.subscription).await?.waiting,
        1,
        "waiting"
    );
    Ok(())
}

async fn duplicates_are_known_after_a_restart(stage: &mut Stage) -> Verdict {
    if stage.backend.capabilities().dedup == Dedup::None {
        return Err(Failure::NotOffered("dedup = none".into()));
    }
    let published = stage.publish_many("orders.placed", 20).await?;
    stage.restart().await?;
    for answer in stage.backend.publish(&published).await? {
        require!(answer?.duplicate, "stored again after a restart");
    }
    Ok(())
}

async fn state_outlives_a_restart(stage: &mut Stage) -> Verdict {
    stage.backend.state().increment("counter", 41).await?;
    stage
        .backend
        .state()
        .put_if_absent("text", Bytes::from_static(b"kept"))
        .await?;
    let before = stage.backend.state().get("text").await?;
    stage.restart().await?;
    let values = stage.backend.state();
    require_eq!(values.increment("counter", 1).await?, 42, "sum");
    require_eq!(values.get("text").await?, before, "value and version");
    Ok(())
}

async fn what_was_leased_comes_back_at_once_after_a_close(stage: &mut Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 10).await?;
    seat.take(10).await?;
    stage.restart().await?;
    // Their lease would have lasted minutes. Nobody died: they come together and uncounted.
    let seat = stage.rejoin(&seat.subscription).await?;
    let came = seat.take(10).await?;
    let uncounted = came.iter().all(|delivery| delivery.attempt == 1);
    require!(uncounted, "closing counted an attempt");
    seat.ack(&came).await
}

async fn receipts_from_before_a_restart_are_refused(stage: &mut Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 2).await?;
    let old = seat.take(2).await?;
    stage.restart().await?;
    let seat = stage.rejoin(&seat.subscription).await?;
    let new = seat.take(2).await?;
    for delivery in &old {
        let settled = seat.try_settle(delivery.receipt, dead("rejected")).await?;
        require!(
            settled != Settled::Done,
            "a receipt from before the restart counted"
        );
    }
    seat.ack(&new).await
}

async fn positions_go_on_after_a_restart(stage: &mut Stage) -> Verdict {
    let mut last = None;
    for _ in 0..3 {
        for position in stage.publish(&events("orders.placed", 5)?).await? {
            require!(Some(position) > last, "position {position} after {last:?}");
            last = Some(position);
        }
        stage.restart().await?;
    }
    Ok(())
}

async fn order_holds_across_a_restart(stage: &mut Stage) -> Verdict {
    let spec = crate::stage::ordered("all", "**")?;
    stage.join(&spec).await?;
    stage
        .publish(&crate::stage::keyed("orders.placed", &["a"], 4)?)
        .await?;
    for n in 0..4 {
        let seat = stage.rejoin(&spec.name).await?;
        let held = seat.take(1).await?;
        seat.nothing_for(Duration::ZERO).await?;
        for delivery in &held {
            require_eq!(crate::stage::number(&delivery.event)?, n, "event");
            seat.settle(delivery, retry(Duration::ZERO)).await?;
        }
        stage.restart().await?;
        let seat = stage.rejoin(&spec.name).await?;
        for delivery in seat.take(1).await? {
            require_eq!(
                crate::stage::number(&delivery.event)?,
                n,
                "event after the restart"
            );
            seat.settle(&delivery, Settlement::Ack).await?;
        }
    }
    Ok(())
}
