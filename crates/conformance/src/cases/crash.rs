//! Members that die: isolation, attempts, poison. A member that holds its deliveries and never
//! settles them is, to a backend, the same as one whose process was killed.

use fanfare_core::dead_letter::DeadLetterFilter;
use fanfare_core::delivery::{Delivery, Settled, Settlement};
use fanfare_core::retry::RetryPolicy;
use fanfare_core::subscription::SubscriptionSpec;

use crate::case::{Verdict, cases, require, require_eq};
use crate::stage::{Stage, number, short_lease};

cases! { "crash";
    deliveries_of_a_dead_member_come_back_alone: 9;
    neighbours_of_a_poison_event_are_never_charged: 9;
    a_poison_event_is_given_up_after_its_attempts: 9;
    a_poison_event_is_dropped_where_dead_letters_are_off: 9;
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
        let beside = heir.consumer.receive(10, std::time::Duration::ZERO).await?;
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

/// What a run of members saw, each of which dies with the poison event.
#[derive(Default)]
struct Toll {
    deaths: u32,
    handled: Vec<Delivery>,
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
                }
            }
        }
        dead.push(seat);
        require!(dead.len() < 50, "{} members died of one event", dead.len());
    }
    Ok(toll)
}

async fn neighbours_of_a_poison_event_are_never_charged(stage: &Stage) -> Verdict {
    stage.publish_many("orders.placed", 6).await?;
    let toll = live_and_die(stage, &deadly(3)?).await?;
    require_eq!(toll.handled.len(), 5, "handled neighbours");
    for delivery in &toll.handled {
        require_eq!(delivery.attempt, 1, "attempt of a neighbour");
    }
    Ok(())
}

async fn a_poison_event_is_given_up_after_its_attempts(stage: &Stage) -> Verdict {
    stage.publish_many("orders.placed", 6).await?;
    let toll = live_and_die(stage, &deadly(2)?).await?;
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
    stage.publish_many("orders.placed", 6).await?;
    let mut spec = deadly(1)?;
    spec.dead_letter = false;
    let toll = live_and_die(stage, &spec).await?;
    require!(toll.deaths <= 2, "{} deaths with 1 attempt", toll.deaths);
    let counts = stage.counts(&spec.name).await?;
    require_eq!((counts.dropped, counts.dead), (1, 0), "dropped, dead");
    Ok(())
}
