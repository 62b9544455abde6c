//! Retries: when due, not earlier, and in nobody's way.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::case::{Verdict, cases, require, require_eq};
use crate::stage::{Stage, number, require_same, retry};

cases! { "retry";
    a_retry_comes_no_sooner_than_asked: 10 + live;
    a_retry_comes_when_due: 10 + live;
    each_retry_counts_one_attempt: 10 + live;
    other_events_go_on_while_many_wait: 10 + live;
    many_delays_each_come_when_due: 10 + live;
    a_retry_wakes_a_waiting_member: 10 + live;
}

const HOUR: Duration = Duration::from_hours(1);

async fn a_retry_comes_no_sooner_than_asked(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 1).await?;
    let delay = Duration::from_millis(400);
    let first = seat.one().await?;
    let asked = stage.clock.now();
    seat.settle(&first, retry(delay)).await?;
    let again = seat.one().await?;
    let waited = stage.clock.now().since(asked);
    require!(
        waited >= delay,
        "came after {waited:?}, asked for {delay:?}"
    );
    require_eq!(again.attempt, 2, "attempt");
    seat.ack(&[again]).await
}

async fn a_retry_comes_when_due(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 1).await?;
    for delay in [0, 1, 50] {
        let asked = stage.clock.now();
        seat.settle(&seat.one().await?, retry(Duration::from_millis(delay)))
            .await?;
        let again = seat.one().await?;
        let waited = stage.clock.now().since(asked);
        require!(
            waited < stage.patience / 2,
            "a retry after {delay} ms took {waited:?}"
        );
        seat.settle(&again, retry(Duration::ZERO)).await?;
    }
    seat.finish(1).await?;
    Ok(())
}

async fn each_retry_counts_one_attempt(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 2).await?;
    for attempt in 1..=6 {
        for delivery in seat.take(2).await? {
            require_eq!(delivery.attempt, attempt, "attempt");
            seat.settle(&delivery, retry(Duration::ZERO)).await?;
        }
    }
    seat.finish(2).await?;
    Ok(())
}

async fn other_events_go_on_while_many_wait(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 2_000).await?;
    let put_off = seat.take(2_000).await?;
    let settlements = put_off.iter().map(|d| (d.receipt, retry(HOUR)));
    seat.consumer.settle(settlements.collect()).await?;
    let counts = stage.counts(&seat.subscription).await?;
    require_eq!(
        (counts.waiting, counts.in_flight),
        (2_000, 0),
        "waiting, in flight"
    );
    let published = stage.publish_many("users.created", 500).await?;
    require_same(&seat.finish(500).await?, &published)
}

async fn many_delays_each_come_when_due(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let mut random = stage.random();
    stage.publish_many("orders.placed", 200).await?;
    let mut due = BTreeMap::new();
    for delivery in seat.take(200).await? {
        let delay = Duration::from_millis(random.below(800));
        due.insert(number(&delivery.event)?, stage.clock.now() + delay);
        seat.settle(&delivery, retry(delay)).await?;
    }
    while !due.is_empty() {
        let came = seat.consumer.receive(50, stage.patience).await?;
        let now = stage.clock.now();
        require!(!came.is_empty(), "{} retries never came", due.len());
        for delivery in &came {
            let number = number(&delivery.event)?;
            let expected = due.remove(&number);
            require!(
                expected.is_some_and(|expected| expected <= now),
                "event {number} due at {expected:?} came at {now}"
            );
        }
        seat.ack(&came).await?;
    }
    Ok(())
}

async fn a_retry_wakes_a_waiting_member(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let other = stage.rejoin(&seat.subscription).await?;
    stage.publish_many("orders.placed", 1).await?;
    let first = seat.one().await?;
    let (came, settled) = futures::join!(
        other.consumer.receive(1, stage.patience),
        seat.settle(&first, retry(Duration::from_millis(100)))
    );
    settled?;
    let came = came?;
    require_eq!(came.len(), 1, "deliveries to the waiting member");
    other.ack(&came).await
}
