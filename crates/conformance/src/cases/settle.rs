//! Settling: what counts, what does not, and what it leaves behind.

use std::time::Duration;

use fanfare_core::delivery::{Receipt, Settled, Settlement};
use fanfare_core::position::Position;

use crate::case::{Verdict, cases, require, require_eq};
use crate::stage::{SHORT_LEASE, Stage, dead, retry, short_lease};

cases! { "settle";
    an_acknowledged_delivery_never_comes_back: 7 + live;
    a_thousand_acknowledgements_all_count: 7 + live;
    a_dropped_delivery_leaves_nothing_but_a_count: 7 + live;
    a_released_delivery_comes_back_at_once_uncounted: 9 + live;
    answers_come_in_order: 8 + live;
    a_repeated_settlement_changes_nothing: 8 + live;
    a_receipt_that_was_never_given_out_is_unknown: 8 + live;
    one_receipt_twice_in_a_batch_counts_once: 8 + live;
    a_made_up_receipt_for_what_is_settled_changes_nothing: 8 + live;
}

async fn an_acknowledged_delivery_never_comes_back(stage: &Stage) -> Verdict {
    let seat = stage.join(&short_lease("all", "**")?).await?;
    stage.publish_many("orders.placed", 3).await?;
    let mut settled = 0;
    while settled < 3 {
        // Under load the short lease may end first: then it rightly comes again.
        let delivery = seat.one().await?;
        if seat.try_settle(delivery.receipt, Settlement::Ack).await? == Settled::Done {
            settled += 1;
        }
    }
    seat.nothing_for(SHORT_LEASE * 2).await
}

async fn a_thousand_acknowledgements_all_count(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 1_000).await?;
    seat.finish(1_000).await?;
    let counts = stage.counts(&seat.subscription).await?;
    require_eq!(counts.acknowledged, 1_000, "acknowledged");
    require_eq!(counts.unsettled(), 0, "unsettled");
    Ok(())
}

async fn a_dropped_delivery_leaves_nothing_but_a_count(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 5).await?;
    for delivery in seat.take(5).await? {
        seat.settle(&delivery, Settlement::Drop).await?;
    }
    seat.nothing().await?;
    let counts = stage.counts(&seat.subscription).await?;
    require_eq!(counts.dropped, 5, "dropped");
    require_eq!(counts.dead, 0, "dead");
    require_eq!(counts.acknowledged, 0, "acknowledged");
    Ok(())
}

async fn a_released_delivery_comes_back_at_once_uncounted(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 3).await?;
    for _ in 0..10 {
        for delivery in seat.take(3).await? {
            require_eq!(delivery.attempt, 1, "attempt after a release");
            seat.settle(&delivery, Settlement::Release).await?;
        }
    }
    seat.finish(3).await?;
    Ok(())
}

async fn answers_come_in_order(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 4).await?;
    let receipts: Vec<_> = seat.take(4).await?.into_iter().map(|d| d.receipt).collect();
    let [first, second, third, fourth] = receipts[..] else {
        return Ok(());
    };
    seat.try_settle(second, Settlement::Ack).await?;
    let stranger = Receipt {
        position: Position(u128::from(u64::MAX >> 2)),
        epoch: first.epoch,
    };
    let batch = [first, second, stranger, third, second, fourth];
    let batch = batch.map(|receipt| (receipt, Settlement::Ack)).to_vec();
    let answers = seat.consumer.settle(batch).await?;
    let expected = [
        Settled::Done,
        Settled::Already,
        Settled::Unknown,
        Settled::Done,
        Settled::Already,
        Settled::Done,
    ];
    require_eq!(answers, expected, "answers");
    Ok(())
}

async fn a_repeated_settlement_changes_nothing(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 1).await?;
    let delivery = seat.one().await?;
    seat.settle(&delivery, Settlement::Ack).await?;
    for again in [
        Settlement::Ack,
        Settlement::Drop,
        Settlement::Release,
        retry(Duration::ZERO),
        dead("rejected"),
    ] {
        let settled = seat.try_settle(delivery.receipt, again).await?;
        require_eq!(settled, Settled::Already, "settling again");
    }
    seat.nothing().await?;
    let counts = stage.counts(&seat.subscription).await?;
    let all = (counts.acknowledged, counts.dropped, counts.dead);
    require_eq!(all, (1, 0, 0), "acknowledged, dropped, dead");
    Ok(())
}

async fn a_receipt_that_was_never_given_out_is_unknown(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 1).await?;
    let far = Position(u128::from(u64::MAX >> 2));
    for (position, epoch) in [(far, 1), (far, u64::MAX >> 2), (Position::START, 0)] {
        let receipt = Receipt { position, epoch };
        let settled = seat.try_settle(receipt, Settlement::Ack).await?;
        require_eq!(settled, Settled::Unknown, "settling a made-up receipt");
        let extended = seat
            .consumer
            .extend(&[receipt], Duration::from_secs(1))
            .await?;
        require_eq!(extended, [Settled::Unknown], "extending a made-up receipt");
    }
    seat.finish(1).await?;
    Ok(())
}

async fn one_receipt_twice_in_a_batch_counts_once(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 1).await?;
    let receipt = seat.one().await?.receipt;
    let batch = vec![(receipt, Settlement::Ack), (receipt, Settlement::Drop)];
    let answers = seat.consumer.settle(batch).await?;
    require_eq!(answers, [Settled::Done, Settled::Already], "answers");
    let counts = stage.counts(&seat.subscription).await?;
    let settled = counts.acknowledged + counts.dropped;
    require!(settled == 1, "one delivery was counted {settled} times");
    Ok(())
}

/// Nobody keeps a record of every receipt that was ever settled: one that names a place behind which
/// everything is settled is taken for an old one.
async fn a_made_up_receipt_for_what_is_settled_changes_nothing(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "orders.*").await?;
    stage.publish_many("orders.placed", 1).await?;
    let others = stage.publish_many("users.created", 1).await?;
    stage.publish_many("orders.placed", 1).await?;
    let first = seat.one().await?;
    let last = seat.one().await?;
    seat.ack(&[first.clone(), last.clone()]).await?;
    let again = stage.backend.publish(&others).await?.pop().transpose()?;
    // Where it was stored again it stands elsewhere.
    let again = again.filter(|published| published.duplicate);
    let not_ours = again.and_then(|published| published.position);
    for position in [Some(first.position), not_ours, Some(last.position)] {
        let Some(position) = position else {
            continue; // Where a duplicate is answered without its position.
        };
        let receipt = Receipt {
            position,
            epoch: u64::MAX >> 2,
        };
        let settled = seat.try_settle(receipt, Settlement::Release).await?;
        require_eq!(settled, Settled::Already, "settling what is settled");
    }
    seat.nothing().await?;
    let counts = stage.counts(&seat.subscription).await?;
    require_eq!(counts.acknowledged, 2, "acknowledged");
    Ok(())
}
