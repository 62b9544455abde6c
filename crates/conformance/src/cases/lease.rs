//! Leases: one owner at a time, takeover, and the fence against the former owner.

use std::time::Duration;

use fanfare_core::dead_letter::DeadLetterFilter;
use fanfare_core::delivery::{Delivery, Settled, Settlement};

use crate::case::{Failure, Verdict, cases, require, require_eq};
use crate::stage::{LONG_LEASE, SHORT_LEASE, Seat, Stage, dead, retry, short_lease};

cases! { "lease";
    a_leased_delivery_is_nobody_elses: 8 + live;
    a_lease_lasts_as_long_as_the_subscription_says: 8 + live;
    an_ended_lease_is_taken_over: 8 + live;
    a_late_settlement_is_refused_and_changes_nothing: 8 + live;
    a_late_dead_letter_is_not_kept: 8 + live;
    the_new_owner_settles_with_a_newer_epoch: 8 + live;
    an_extended_lease_is_kept: 8 + live;
    one_extended_delivery_does_not_keep_its_neighbours: 8 + live;
    extending_what_is_over_says_so: 8 + live;
    a_closed_member_gives_its_deliveries_back_at_once: 20 + live;
}

/// One delivery whose lease ended under the first member and went to the second.
async fn taken_over(stage: &Stage) -> Verdict<(Seat, Delivery, Seat, Delivery)> {
    let slow = stage.join(&short_lease("all", "**")?).await?;
    let quick = stage.rejoin(&slow.subscription).await?;
    stage.publish_many("orders.placed", 1).await?;
    let old = slow.one().await?;
    // Whoever is next keeps it.
    let mut spec = stage.backend.admin().get(&slow.subscription).await?.spec;
    spec.lease = LONG_LEASE;
    stage.backend.admin().put(&spec).await?;
    let new = quick.one().await?;
    require_eq!(old.event.id(), new.event.id(), "event taken over");
    Ok((slow, old, quick, new))
}

async fn a_leased_delivery_is_nobody_elses(stage: &Stage) -> Verdict {
    let first = stage.join_new("all", "**").await?;
    let second = stage.rejoin(&first.subscription).await?;
    stage.publish_many("orders.placed", 10).await?;
    let held = first.take(10).await?;
    first.nothing().await?;
    second.nothing_for(SHORT_LEASE * 2).await?;
    let counts = stage.counts(&first.subscription).await?;
    require_eq!(
        (counts.in_flight, counts.waiting),
        (10, 0),
        "in flight, waiting"
    );
    first.ack(&held).await
}

async fn a_lease_lasts_as_long_as_the_subscription_says(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 1).await?;
    let before = stage.clock.now();
    let delivery = seat.one().await?;
    let after = stage.clock.now();
    let slack = Duration::from_secs(1);
    let until = delivery.lease_until;
    require!(
        until >= before + LONG_LEASE - slack && until <= after + LONG_LEASE + slack,
        "a lease of {LONG_LEASE:?} given between {before} and {after} ends at {until}"
    );
    Ok(())
}

async fn an_ended_lease_is_taken_over(stage: &Stage) -> Verdict {
    let (_slow, old, quick, new) = taken_over(stage).await?;
    require!(
        stage.clock.now() + Duration::from_millis(20) >= old.lease_until,
        "taken over before the lease ended"
    );
    quick.ack(&[new]).await?;
    quick.nothing().await
}

async fn a_late_settlement_is_refused_and_changes_nothing(stage: &Stage) -> Verdict {
    let (slow, old, quick, new) = taken_over(stage).await?;
    for late in [
        Settlement::Ack,
        Settlement::Drop,
        Settlement::Release,
        retry(Duration::ZERO),
    ] {
        let settled = slow.try_settle(old.receipt, late.clone()).await?;
        require_eq!(settled, Settled::Late, "settling late with {late:?}");
    }
    quick.nothing().await?;
    let counts = stage.counts(&slow.subscription).await?;
    require_eq!(counts.in_flight, 1, "in flight after late settlements");
    quick.ack(&[new]).await?;
    let settled = slow.try_settle(old.receipt, Settlement::Drop).await?;
    require_eq!(
        settled,
        Settled::Already,
        "settling what another has settled"
    );
    let counts = stage.counts(&slow.subscription).await?;
    require_eq!(
        (counts.acknowledged, counts.dropped),
        (1, 0),
        "acknowledged, dropped"
    );
    Ok(())
}

async fn a_late_dead_letter_is_not_kept(stage: &Stage) -> Verdict {
    let (slow, old, quick, new) = taken_over(stage).await?;
    let settled = slow.try_settle(old.receipt, dead("rejected")).await?;
    require_eq!(settled, Settled::Late, "giving up late");
    quick.ack(&[new]).await?;
    let everything = DeadLetterFilter::default();
    let letters = stage
        .backend
        .dead_letters()
        .list(&everything, None, 10)
        .await?;
    require!(letters.items.is_empty(), "a late dead letter was kept");
    Ok(())
}

async fn the_new_owner_settles_with_a_newer_epoch(stage: &Stage) -> Verdict {
    let (_slow, old, quick, new) = taken_over(stage).await?;
    require_eq!(new.receipt.position, old.receipt.position, "position");
    require!(
        new.receipt.epoch > old.receipt.epoch,
        "epoch {} after {}",
        new.receipt.epoch,
        old.receipt.epoch
    );
    quick.ack(&[new]).await
}

async fn an_extended_lease_is_kept(stage: &Stage) -> Verdict {
    let (first, held) = extended(stage, 5).await?;
    let second = stage.rejoin(&first.subscription).await?;
    second.nothing_for(SHORT_LEASE * 3).await?;
    first.ack(&held).await
}

/// `count` deliveries of one short lease, extended while it lived.
async fn extended(stage: &Stage, count: usize) -> Verdict<(Seat, Vec<Delivery>)> {
    // On a busy machine the lease may end before the extension is made: then again.
    for round in 0..20 {
        let spec = short_lease(&format!("round-{round}"), "**")?;
        let seat = stage.join(&spec).await?;
        if round == 0 {
            stage.publish_many("orders.placed", count).await?;
        }
        let held = seat.take(count).await?;
        let receipts: Vec<_> = held.iter().map(|d| d.receipt).collect();
        let answers = seat.consumer.extend(&receipts, LONG_LEASE).await?;
        require_eq!(answers.len(), receipts.len(), "answers to an extension");
        if answers.iter().all(|answer| *answer == Settled::Done) {
            return Ok((seat, held));
        }
    }
    Err(Failure::new("no lease could be extended while it lived"))
}

async fn one_extended_delivery_does_not_keep_its_neighbours(stage: &Stage) -> Verdict {
    let seat = stage.join(&short_lease("all", "**")?).await?;
    stage.publish_many("orders.placed", 2).await?;
    let held = seat.take(2).await?;
    let [kept, left] = &held[..] else {
        return Ok(());
    };
    let answers = seat.consumer.extend(&[kept.receipt], LONG_LEASE).await?;
    if answers != [Settled::Done] {
        return Ok(()); // The machine was too slow: the lease was over, rightly refused.
    }
    let other = stage.rejoin(&seat.subscription).await?;
    let came = other.one().await?;
    require_eq!(came.event.id(), left.event.id(), "event that comes again");
    Ok(())
}

async fn extending_what_is_over_says_so(stage: &Stage) -> Verdict {
    let (slow, old, quick, new) = taken_over(stage).await?;
    let late = slow.consumer.extend(&[old.receipt], LONG_LEASE).await?;
    require_eq!(late, [Settled::Late], "extending after a takeover");
    quick.ack(std::slice::from_ref(&new)).await?;
    let settled = quick.consumer.extend(&[new.receipt], LONG_LEASE).await?;
    require_eq!(settled, [Settled::Already], "extending what is settled");
    Ok(())
}

async fn a_closed_member_gives_its_deliveries_back_at_once(stage: &Stage) -> Verdict {
    let leaving = stage.join_new("all", "**").await?;
    let staying = stage.rejoin(&leaving.subscription).await?;
    stage.publish_many("orders.placed", 20).await?;
    leaving.take(20).await?;
    leaving.consumer.close().await?;
    leaving.consumer.close().await?;
    // Together and uncounted: nobody died.
    let came = staying.take(20).await?;
    let uncounted = came.iter().all(|delivery| delivery.attempt == 1);
    require!(uncounted, "leaving counted an attempt");
    staying.ack(&came).await
}
