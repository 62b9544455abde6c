//! Keys that park behind their dead letters, under random work. Single steps are in `order`.

use fanfare_core::dead_letter::{DeadLetterFilter, Selection};
use fanfare_core::subscription::OnDead;

use super::order::{Checker, any_settlement};
use crate::case::{Failure, Verdict, cases, require};
use crate::random::Random;
use crate::stage::{SHORT_LEASE, Stage, keyed, ordered};

cases! { "park";
    parked_keys_keep_their_order_whatever_is_redriven_or_discarded: 11, Park;
}

/// Redrives or discards one dead letter; whether there was one.
async fn mend(stage: &Stage, random: &mut Random, checker: &mut Checker) -> Verdict<bool> {
    let letters = stage.backend.dead_letters();
    let page = letters
        .list(&DeadLetterFilter::default(), None, 100)
        .await?;
    let Some(letter) = random.pick(&page.items) else {
        return Ok(false);
    };
    let key = letter
        .body
        .event()
        .and_then(|event| event.key())
        .unwrap_or_default();
    let one = Selection::Ids(vec![letter.id.clone()]);
    let discards = random.chance(30);
    if discards {
        letters.discard(&one).await?;
    } else {
        letters.redrive(&one, 1).await?;
    }
    checker.unparked(key, discards);
    Ok(true)
}

async fn parked_keys_keep_their_order_whatever_is_redriven_or_discarded(stage: &Stage) -> Verdict {
    let mut spec = ordered("all", "**")?;
    spec.on_dead = OnDead::Park;
    spec.lease = SHORT_LEASE;
    spec.retry.max_attempts = 1_000;
    let first = stage.join(&spec).await?;
    let seats = [first, stage.rejoin(&spec.name).await?];
    let published = keyed("orders.placed", &["a", "b", "c", "d"], 20)?;
    stage.publish(&published).await?;

    let mut random = stage.random();
    let mut checker = Checker::parking();
    let mut idle = 0;
    while checker.settled < published.len() {
        if random.chance(15) {
            mend(stage, &mut random, &mut checker).await?;
        }
        let seat = random
            .pick(&seats)
            .ok_or_else(|| Failure::new("no member"))?;
        let came = seat.consumer.receive(4, SHORT_LEASE / 5).await?;
        idle = if came.is_empty() && !mend(stage, &mut random, &mut checker).await? {
            idle + 1
        } else {
            0
        };
        let settled = checker.settled;
        require!(
            idle < 200,
            "nothing comes, {settled} of {} settled",
            published.len()
        );
        for delivery in came {
            checker.came(&delivery)?;
            if let Some(with) = any_settlement(&mut random) {
                let settled = seat.try_settle(delivery.receipt, with.clone()).await?;
                checker.answered(&delivery, &with, settled)?;
            }
        }
    }
    Ok(())
}
