//! Members that die: isolation, attempts, poison. A member that holds its deliveries and never
//! settles them is, to a backend, the same as one whose process was killed.

use fanfare_core::dead_letter::DeadLetterFilter;
use std::time::Duration;

use fanfare_core::delivery::{Delivery, Settled, Settlement};
use fanfare_core::retry::RetryPolicy;
use fanfare_core::subscription::SubscriptionSpec;

use futures::FutureExt;

use crate::case::{Verdict, cases, require, require_eq};
use crate::stage::{LONG_LEASE, SHORT_LEASE, Seat, Stage, number, short_lease};

cases! { "crash";
    deliveries_of_a_dead_member_come_back_alone: 9 + live;
    nothing_fresh_comes_beside_what_runs_alone: 9 + live;
    a_member_finishes_what_it_holds_before_it_gets_a_suspect: 9 + live;
    a_suspect_that_is_released_is_not_charged: 9 + live;
    a_dropped_receive_neither_strands_nor_charges_a_suspect: 9 + live;
    neighbours_of_a_poison_event_are_never_charged: 9 + live;
    a_poison_event_is_given_up_after_its_attempts: 9 + live;
    a_poison_event_is_dropped_where_dead_letters_are_off: 9 + live;
    a_member_that_is_dropped_has_died: 9 + live;
}

/// The number of the event that kills whoever handles it.
const POISON: u64 = 3;

fn deadly(attempts: u32) -> Verdict<SubscriptionSpec> {
    let mut spec = short_lease("all", "**")?;
    spec.retry = RetryPolicy {
        max_attempts: attempts,
        ..RetryPolicy::default()
    };
    Ok(spec)
}

async fn deliveries_of_a_dead_member_come_back_alone(stage: &Stage) -> Verdict {
    let dying = stage.join(&deadly(5)?).await?;
    stage.publish_many("orders.placed", 4).await?;
    dying.take(4).await?;
    let heir = stage.rejoin(&dying.subscription).await?;
    let mut left = 4;
    while left > 0 {
        let came = heir.consumer.receive(10, stage.patience).await?;
        require_eq!(came.len(), 1, "deliveries beside one whose member died");
        let beside = heir.consumer.receive(10, Duration::ZERO).await?;
        for delivery in &came {
            let settled = heir.try_settle(delivery.receipt, Settlement::Ack).await?;
            if settled == Settled::Done {
                require!(beside.is_empty(), "more came while one ran alone");
                left -= 1;
            }
        }
    }
    heir.nothing().await
}

/// A member that holds one delivery and stays silent, and one that takes over with a lease that
/// lasts.
async fn one_suspect(stage: &Stage) -> Verdict<(Seat, Seat)> {
    let mut spec = deadly(5)?;
    let dying = stage.join(&spec).await?;
    stage.publish_many("orders.placed", 1).await?;
    dying.one().await?;
    spec.lease = LONG_LEASE;
    stage.backend.admin().put(&spec).await?;
    let heir = stage.rejoin(&spec.name).await?;
    Ok((dying, heir))
}

async fn nothing_fresh_comes_beside_what_runs_alone(stage: &Stage) -> Verdict {
    let (_dying, heir) = one_suspect(stage).await?;
    let suspect = heir.one().await?;
    stage.publish_many("orders.placed", 5).await?;
    heir.nothing().await?;
    // Others may go on meanwhile.
    let other = stage.rejoin(&heir.subscription).await?;
    other.ack(&other.take(2).await?).await?;
    heir.ack(&[suspect]).await?;
    heir.finish(3).await?;
    Ok(())
}

async fn a_member_finishes_what_it_holds_before_it_gets_a_suspect(stage: &Stage) -> Verdict {
    let (_dying, heir) = one_suspect(stage).await?;
    stage.publish_many("orders.paid", 1).await?;
    let fresh = heir.one().await?;
    if fresh.event.event_type().as_str() == "orders.placed" {
        return heir.ack(&[fresh]).await; // The short lease was over before the publish.
    }
    heir.nothing_for(SHORT_LEASE * 2).await?;
    heir.ack(&[fresh]).await?;
    let suspect = heir.finish(1).await?;
    let kind = suspect.first().map(|d| d.event.event_type().as_str());
    require_eq!(kind, Some("orders.placed"), "event that comes alone");
    Ok(())
}

async fn a_suspect_that_is_released_is_not_charged(stage: &Stage) -> Verdict {
    let (_dying, heir) = one_suspect(stage).await?;
    for _ in 0..3 {
        let suspect = heir.one().await?;
        require_eq!(suspect.attempt, 1, "attempt after a release");
        heir.settle(&suspect, Settlement::Release).await?;
    }
    let again = heir.one().await?;
    heir.settle(&again, crate::stage::retry(Duration::ZERO))
        .await?;
    let last = heir.one().await?;
    require_eq!(last.attempt, 2, "attempt after a retry");
    heir.ack(&[last]).await
}

async fn a_dropped_receive_neither_strands_nor_charges_a_suspect(stage: &Stage) -> Verdict {
    let (_dying, heir) = one_suspect(stage).await?;
    let until = stage.clock.now() + SHORT_LEASE * 2;
    let mut came = Vec::new();
    while came.is_empty() && stage.clock.now() < until {
        // Polled once, then dropped, wherever it was.
        let once = heir.consumer.receive(1, stage.patience).now_or_never();
        came = once.transpose()?.unwrap_or_default();
        stage.clock.sleep(Duration::from_millis(10)).await;
    }
    let suspect = match came.pop() {
        Some(suspect) => suspect,
        None => heir.one().await?,
    };
    require_eq!(suspect.attempt, 1, "attempt after dropped receives");
    heir.ack(&[suspect]).await
}

/// What a run of members saw, each of which dies with the poison event.
#[derive(Default)]
struct Toll {
    deaths: u32,
    handled: Vec<Delivery>,
    /// Settlements that a slow machine brought when the lease was over.
    late: u64,
}

/// Members take over from each other until nothing is left.
async fn live_and_die(stage: &Stage, spec: &SubscriptionSpec) -> Verdict<Toll> {
    let mut toll = Toll::default();
    stage.join(spec).await?;
    let mut dead = Vec::new();
    while stage.counts(&spec.name).await?.unsettled() > 0 {
        let seat = stage.rejoin(&spec.name).await?;
        loop {
            let came = seat.consumer.receive(10, spec.lease * 3).await?;
            if came.is_empty() {
                break;
            }
            let numbers = came.iter().map(|d| number(&d.event));
            if numbers.collect::<Verdict<Vec<_>>>()?.contains(&POISON) {
                // The process dies, and everything that it had taken with it.
                toll.deaths += 1;
                break;
            }
            for delivery in came {
                let settled = seat.try_settle(delivery.receipt, Settlement::Ack).await?;
                if settled == Settled::Done {
                    toll.handled.push(delivery);
                } else {
                    toll.late += 1;
                }
            }
        }
        dead.push(seat);
        require!(dead.len() < 50, "{} members died of one event", dead.len());
    }
    Ok(toll)
}

async fn neighbours_of_a_poison_event_are_never_charged(stage: &Stage) -> Verdict {
    let spec = deadly(3)?;
    stage.create(&spec).await?;
    stage.publish_many("orders.placed", 6).await?;
    let toll = live_and_die(stage, &spec).await?;
    require_eq!(toll.handled.len(), 5, "handled neighbours");
    for delivery in &toll.handled {
        require_eq!(delivery.attempt, 1, "attempt of a neighbour");
    }
    Ok(())
}

async fn a_poison_event_is_given_up_after_its_attempts(stage: &Stage) -> Verdict {
    let spec = deadly(2)?;
    stage.create(&spec).await?;
    stage.publish_many("orders.placed", 6).await?;
    let toll = live_and_die(stage, &spec).await?;
    require!(toll.deaths <= 3, "{} deaths with 2 attempts", toll.deaths);
    let everything = DeadLetterFilter::default();
    let letters = stage
        .backend
        .dead_letters()
        .list(&everything, None, 10)
        .await?
        .items;
    require_eq!(letters.len(), 1, "dead letters");
    for letter in letters {
        let event = letter.body.event().map(number).transpose()?;
        require_eq!(event, Some(POISON), "event of the dead letter");
        require_eq!(letter.reason, "max_attempts", "reason");
        require_eq!(letter.attempts, 2, "attempts");
    }
    Ok(())
}

async fn a_poison_event_is_dropped_where_dead_letters_are_off(stage: &Stage) -> Verdict {
    let mut spec = deadly(1)?;
    spec.dead_letter = false;
    stage.create(&spec).await?;
    stage.publish_many("orders.placed", 6).await?;
    let toll = live_and_die(stage, &spec).await?;
    require!(toll.deaths <= 2, "{} deaths with 1 attempt", toll.deaths);
    let counts = stage.counts(&spec.name).await?;
    require_eq!(counts.dead, 0, "dead");
    // With one attempt, an event whose settlement is late is as good as one that kills.
    let dropped = 1..=1 + toll.late;
    require!(
        dropped.contains(&counts.dropped),
        "{} dropped, of which {} were settled late",
        counts.dropped,
        toll.late
    );
    Ok(())
}

/// Only closing gives back what a member holds. One that goes without it, dropped or killed, keeps
/// its deliveries until their leases end; then they come as after any death.
async fn a_member_that_is_dropped_has_died(stage: &Stage) -> Verdict {
    let spec = deadly(5)?;
    let dying = stage.join(&spec).await?;
    stage.publish_many("orders.placed", 2).await?;
    let heir = stage.rejoin(&spec.name).await?;
    let leased = stage.clock.now();
    dying.take(2).await?;
    drop(dying);
    let came = heir.consumer.receive(10, stage.patience).await?;
    let after = stage.clock.now().since(leased);
    require!(after >= spec.lease, "it came back after {after:?}");
    require_eq!(came.len(), 1, "deliveries beside one whose member died");
    heir.ack(&came).await?;
    heir.finish(1).await?;
    Ok(())
}
