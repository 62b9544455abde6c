//! Dead letters: what is kept, and listing, counting, editing, redriving and discarding them.

use std::collections::BTreeSet;
use std::time::Duration;

use fanfare_core::capability::HistoryKind;
use fanfare_core::data::Data;
use fanfare_core::dead_letter::{DeadLetter, DeadLetterFilter, Selection, fingerprint};
use fanfare_core::delivery::Settlement;
use fanfare_core::pattern::PatternSet;
use futures::future::join_all;

use crate::case::{Failure, Verdict, cases, require, require_eq, require_kind};
use crate::stage::{Seat, Stage, dead, every_letter, number, require_same, retry};

cases! { "dead_letter";
    a_dead_letter_keeps_all_that_is_known: 14 + live;
    attempts_and_first_failure_are_kept: 14 + live;
    letters_are_listed_by_every_filter: 15 + live;
    pages_hold_each_letter_once_oldest_first: 15 + live;
    counting_changes_nothing: 15 + live;
    a_redrive_returns_each_letter_once_to_its_own_subscription: 15 + live;
    a_redrive_pressed_often_at_once_redrives_once: 15 + live;
    a_redrive_keeps_to_its_limit_oldest_first: 15 + live;
    a_redriven_delivery_can_die_again: 15 + live;
    ids_that_are_gone_are_passed_over: 15 + live;
    a_discarded_letter_is_gone_and_counts_as_dropped: 15 + live;
    an_edit_keeps_the_first_original_and_is_what_a_redrive_delivers: 15 + live;
    an_edit_leaves_the_log_as_it_was: 15, History;
}

async fn letters(stage: &Stage, filter: &DeadLetterFilter) -> Verdict<Vec<DeadLetter>> {
    Ok(stage
        .backend
        .dead_letters()
        .list(filter, None, 1_000)
        .await?
        .items)
}

/// Publishes `count` events and gives each up with `reason`.
async fn give_up(stage: &Stage, seat: &Seat, event_type: &str, count: usize) -> Verdict {
    stage.publish_many(event_type, count).await?;
    for delivery in seat.take(count).await? {
        seat.settle(&delivery, dead("rejected")).await?;
    }
    Ok(())
}

async fn a_dead_letter_keeps_all_that_is_known(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let before = stage.clock.now() - Duration::from_secs(1);
    let published = stage.publish_many("orders.placed", 1).await?;
    let delivery = seat.one().await?;
    seat.settle(&delivery, dead("rejected")).await?;
    let found = letters(stage, &DeadLetterFilter::default()).await?;
    let [letter] = &found[..] else {
        return Err(Failure::new(format!(
            "{} dead letters, expected 1",
            found.len()
        )));
    };
    require_eq!(letter.subscription, seat.subscription, "subscription");
    if stage.backend.capabilities().history != HistoryKind::None {
        require_eq!(letter.position, delivery.position, "position");
    }
    require_eq!(letter.body.event(), published.first(), "event");
    require_eq!(letter.reason, "rejected", "reason");
    require_eq!(letter.error, "will not work", "error");
    require_eq!(letter.attempts, 1, "attempts");
    require_eq!(letter.original, None, "original data");
    let print = fingerprint("rejected", "will not work");
    require_eq!(letter.fingerprint, print, "fingerprint");
    let after = stage.clock.now() + Duration::from_secs(1);
    require!(
        before <= letter.first_failure
            && letter.first_failure <= letter.last_failure
            && letter.last_failure <= after,
        "failures at {} and {}",
        letter.first_failure,
        letter.last_failure
    );
    let got = stage.backend.dead_letters().get(&letter.id).await?;
    require_eq!(format!("{got:?}"), format!("{letter:?}"), "letter by id");
    require_kind!(
        stage.backend.dead_letters().get("no-such-letter").await,
        NotFound
    );
    Ok(())
}

async fn attempts_and_first_failure_are_kept(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    stage.publish_many("orders.placed", 1).await?;
    for _ in 0..2 {
        seat.settle(&seat.one().await?, retry(Duration::from_millis(30)))
            .await?;
    }
    seat.settle(&seat.one().await?, dead("max_attempts"))
        .await?;
    for letter in letters(stage, &DeadLetterFilter::default()).await? {
        require_eq!(letter.attempts, 3, "attempts");
        let apart = letter.last_failure.since(letter.first_failure);
        require!(
            apart >= Duration::from_millis(60),
            "first and last failure are {apart:?} apart"
        );
    }
    Ok(())
}

fn filter(edit: impl FnOnce(&mut DeadLetterFilter)) -> DeadLetterFilter {
    let mut filter = DeadLetterFilter::default();
    edit(&mut filter);
    filter
}

async fn letters_are_listed_by_every_filter(stage: &Stage) -> Verdict {
    let orders = stage.join_new("orders", "orders.*").await?;
    let all = stage.join_new("all", "**").await?;
    give_up(stage, &orders, "orders.placed", 2).await?;
    stage.publish_many("users.created", 3).await?;
    for (n, delivery) in all.take(5).await?.into_iter().enumerate() {
        let settlement = Settlement::DeadLetter {
            reason: if n < 2 { "max_attempts" } else { "unhandled" }.into(),
            error: format!("user {n} is away"),
        };
        all.settle(&delivery, settlement).await?;
    }
    let users = PatternSet::parse(["users.**"])?;
    let print = fingerprint("unhandled", "user 99 is away");
    let last = letters(stage, &DeadLetterFilter::default()).await?;
    let end = last
        .iter()
        .map(|l| l.last_failure)
        .max()
        .unwrap_or_default();
    let hour = Duration::from_hours(1);
    let expected = [
        (7, filter(|_| ())),
        (
            2,
            filter(|f| f.subscription = Some(orders.subscription.clone())),
        ),
        (
            5,
            filter(|f| f.subscription = Some(all.subscription.clone())),
        ),
        (3, filter(|f| f.patterns = Some(users))),
        (2, filter(|f| f.reason = Some("rejected".into()))),
        (3, filter(|f| f.fingerprint = Some(print))),
        (0, filter(|f| f.until = Some(end - hour))),
        (7, filter(|f| f.since = Some(end - hour))),
        (0, filter(|f| f.since = Some(end + Duration::from_nanos(1)))),
    ];
    for (count, filter) in expected {
        let found = letters(stage, &filter).await?;
        require_eq!(found.len(), count, "letters for {filter:?}");
        let wrong = found.iter().find(|letter| !filter.matches(letter));
        require!(wrong.is_none(), "{wrong:?} does not match {filter:?}");
        let counted = stage
            .backend
            .dead_letters()
            .count(&Selection::Filter(filter))
            .await?;
        require_eq!(counted, count as u64, "counted letters");
    }
    Ok(())
}

async fn pages_hold_each_letter_once_oldest_first(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    give_up(stage, &seat, "orders.placed", 25).await?;
    let mut seen = Vec::new();
    let mut after: Option<String> = None;
    for _ in 0..100 {
        let filter = DeadLetterFilter::default();
        let page = stage
            .backend
            .dead_letters()
            .list(&filter, after.as_deref(), 10)
            .await?;
        require!(
            page.items.len() <= 10,
            "{} letters on a page of 10",
            page.items.len()
        );
        seen.extend(
            page.items
                .into_iter()
                .map(|letter| (letter.last_failure, letter.id)),
        );
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let distinct: BTreeSet<_> = seen.iter().map(|(_, id)| id).collect();
    require_eq!(
        (seen.len(), distinct.len()),
        (25, 25),
        "letters on all pages, distinct"
    );
    require!(
        seen.is_sorted_by_key(|(at, _)| *at),
        "letters are not oldest first"
    );
    Ok(())
}

async fn counting_changes_nothing(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    give_up(stage, &seat, "orders.placed", 5).await?;
    for _ in 0..3 {
        let count = stage.backend.dead_letters().count(&every_letter()).await?;
        require_eq!(count, 5, "letters counted");
    }
    seat.nothing().await?;
    require_eq!(stage.counts(&seat.subscription).await?.dead, 5, "dead");
    Ok(())
}

async fn a_redrive_returns_each_letter_once_to_its_own_subscription(stage: &Stage) -> Verdict {
    let failing = stage.join_new("failing", "**").await?;
    let healthy = stage.join_new("healthy", "**").await?;
    let published = stage.publish_many("orders.placed", 10).await?;
    healthy.finish(10).await?;
    for delivery in failing.take(10).await? {
        failing.settle(&delivery, dead("rejected")).await?;
    }
    let acted = stage
        .backend
        .dead_letters()
        .redrive(&every_letter(), 100)
        .await?;
    require_eq!((acted.matched, acted.done), (10, 10), "matched, redriven");
    let came = failing.take(10).await?;
    require_same(&came, &published)?;
    for delivery in &came {
        require_eq!(delivery.attempt, 1, "attempt after a redrive");
    }
    failing.ack(&came).await?;
    failing.nothing().await?;
    healthy.nothing().await?;
    let counts = stage.counts(&failing.subscription).await?;
    require_eq!(
        (counts.acknowledged, counts.dead),
        (10, 0),
        "acknowledged, dead"
    );
    Ok(())
}

async fn a_redrive_pressed_often_at_once_redrives_once(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    give_up(stage, &seat, "orders.placed", 50).await?;
    let found = letters(stage, &DeadLetterFilter::default()).await?;
    let ids = Selection::Ids(found.into_iter().map(|letter| letter.id).collect());
    let every = every_letter();
    let presses = (0..10).flat_map(|_| [&ids, &every]);
    let letters = stage.backend.dead_letters();
    let mut done = 0;
    for acted in join_all(presses.map(|selection| letters.redrive(selection, 100))).await {
        done += acted?.done;
    }
    require_eq!(done, 50, "redriven by all presses together");
    seat.finish(50).await?;
    Ok(())
}

async fn a_redrive_keeps_to_its_limit_oldest_first(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    give_up(stage, &seat, "orders.placed", 10).await?;
    for round in 0..3 {
        let acted = stage
            .backend
            .dead_letters()
            .redrive(&every_letter(), 4)
            .await?;
        let expected = 4.min(10 - round * 4);
        require_eq!(acted.done, expected, "redriven in round {round}");
        let came = seat.take(usize::try_from(expected).unwrap_or(0)).await?;
        let oldest = came
            .iter()
            .map(|d| number(&d.event))
            .collect::<Verdict<BTreeSet<_>>>()?;
        let wanted: BTreeSet<_> = (round * 4..round * 4 + expected).collect();
        require_eq!(oldest, wanted, "redriven events");
        seat.ack(&came).await?;
    }
    Ok(())
}

async fn a_redriven_delivery_can_die_again(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    give_up(stage, &seat, "orders.placed", 1).await?;
    for _ in 0..3 {
        let acted = stage
            .backend
            .dead_letters()
            .redrive(&every_letter(), 10)
            .await?;
        require_eq!(acted.done, 1, "redriven");
        seat.settle(&seat.one().await?, dead("rejected")).await?;
        require_eq!(
            letters(stage, &DeadLetterFilter::default()).await?.len(),
            1,
            "letters"
        );
        stage.require_balance().await?;
    }
    Ok(())
}

async fn ids_that_are_gone_are_passed_over(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    give_up(stage, &seat, "orders.placed", 2).await?;
    let mut ids: Vec<_> = letters(stage, &DeadLetterFilter::default())
        .await?
        .into_iter()
        .map(|letter| letter.id)
        .collect();
    ids.push("no-such-letter".into());
    let selection = Selection::Ids(ids);
    require_eq!(
        stage.backend.dead_letters().count(&selection).await?,
        2,
        "count"
    );
    let acted = stage.backend.dead_letters().redrive(&selection, 10).await?;
    require_eq!(acted.done, 2, "redriven");
    let again = stage.backend.dead_letters().redrive(&selection, 10).await?;
    require_eq!(again.done, 0, "redriven again");
    let discarded = stage.backend.dead_letters().discard(&selection).await?;
    require_eq!(discarded.done, 0, "discarded after the redrive");
    seat.finish(2).await?;
    Ok(())
}

async fn a_discarded_letter_is_gone_and_counts_as_dropped(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    give_up(stage, &seat, "orders.placed", 3).await?;
    let found = letters(stage, &DeadLetterFilter::default()).await?;
    for letter in found {
        let selection = Selection::Ids(vec![letter.id.clone()]);
        let acted = stage.backend.dead_letters().discard(&selection).await?;
        require_eq!(acted.done, 1, "discarded");
        require_kind!(stage.backend.dead_letters().get(&letter.id).await, NotFound);
    }
    let acted = stage
        .backend
        .dead_letters()
        .redrive(&every_letter(), 10)
        .await?;
    require_eq!(acted.done, 0, "redriven after all were discarded");
    seat.nothing().await?;
    let counts = stage.counts(&seat.subscription).await?;
    require_eq!((counts.dead, counts.dropped), (0, 3), "dead, dropped");
    Ok(())
}

/// One letter whose data were replaced twice.
async fn edited(stage: &Stage) -> Verdict<(Seat, DeadLetter)> {
    let seat = stage.join_new("all", "**").await?;
    give_up(stage, &seat, "orders.placed", 1).await?;
    let mut found = letters(stage, &DeadLetterFilter::default()).await?;
    let letter = found.pop().ok_or_else(|| Failure::new("no dead letter"))?;
    let all = stage.backend.dead_letters();
    all.replace(&letter.id, Data::text("first edit")).await?;
    let letter = all
        .replace(&letter.id, Data::json("{\"second\": \"edit\"}"))
        .await?;
    Ok((seat, letter))
}

async fn an_edit_keeps_the_first_original_and_is_what_a_redrive_delivers(stage: &Stage) -> Verdict {
    let (seat, answered) = edited(stage).await?;
    let stored = stage.backend.dead_letters().get(&answered.id).await?;
    let edit = Data::json("{\"second\": \"edit\"}");
    for letter in [answered, stored] {
        let data = letter.body.event().and_then(|event| event.data().cloned());
        require_eq!(data, Some(edit.clone()), "data after the edit");
        require_eq!(letter.original, Some(Data::json("0")), "original data");
    }
    stage
        .backend
        .dead_letters()
        .redrive(&every_letter(), 10)
        .await?;
    let delivery = seat.one().await?;
    require_eq!(delivery.event.data(), Some(&edit), "data redriven");
    seat.settle(&delivery, retry(Duration::ZERO)).await?;
    let again = seat.one().await?;
    require_eq!(again.event.data(), Some(&edit), "data after a retry");
    seat.ack(&[again]).await?;
    require_kind!(
        stage
            .backend
            .dead_letters()
            .replace("no-such-letter", edit)
            .await,
        NotFound
    );
    Ok(())
}

async fn an_edit_leaves_the_log_as_it_was(stage: &Stage) -> Verdict {
    let (_seat, letter) = edited(stage).await?;
    let id = letter.body.event().map(|event| event.id().to_string());
    let history = stage.backend.history()?;
    for recorded in history.event(&id.unwrap_or_default(), None).await? {
        require_eq!(
            recorded.event.data(),
            Some(&Data::json("0")),
            "data in the log"
        );
    }
    Ok(())
}
