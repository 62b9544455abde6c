//! Publishing: what an answer means, duplicates, and limits.

use std::collections::BTreeMap;

use fanfare_core::ErrorKind;
use fanfare_core::data::Data;
use fanfare_core::id::EventId;
use futures::future::join_all;

use crate::case::{Verdict, cases, require, require_eq};
use crate::stage::{Stage, event, events, number, require_same};

cases! { "publish";
    an_acknowledged_event_reaches_every_subscription: 1 + live;
    concurrent_publishes_are_all_kept: 1 + live;
    a_later_subscription_from_earliest_gets_what_was_there: 1, Earliest;
    the_same_event_again_is_a_duplicate_of_the_first: 2, Dedup;
    a_duplicate_within_one_batch_is_recognised: 2, Dedup;
    the_same_id_of_another_source_is_another_event: 2, Dedup;
    concurrent_publishes_of_one_event_store_it_once: 2, Dedup;
    a_duplicate_of_a_settled_event_is_not_delivered: 2, Dedup;
    answers_come_per_event_in_order: 3;
    each_concurrent_caller_gets_its_own_answer: 3;
    an_empty_batch_is_answered_with_nothing: 3 + live;
    too_large_data_are_refused_and_not_stored: 6 + live;
    too_large_a_batch_is_refused_whole: 6 + live;
}

async fn an_acknowledged_event_reaches_every_subscription(stage: &Stage) -> Verdict {
    let seats = [
        stage.join_new("billing", "orders.*").await?,
        stage.join_new("audit", "**").await?,
        stage.join_new("mail", "orders.placed users.**").await?,
    ];
    let published = stage.publish_many("orders.placed", 1_000).await?;
    for seat in &seats {
        require_same(&seat.finish(published.len()).await?, &published)?;
    }
    Ok(())
}

async fn concurrent_publishes_are_all_kept(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let published = events("orders.placed", 400)?;
    let callers = published.chunks(4).map(|part| async move {
        for event in part {
            stage.publish(std::slice::from_ref(event)).await?;
        }
        Verdict::Ok(())
    });
    for done in join_all(callers).await {
        done?;
    }
    require_same(&seat.finish(published.len()).await?, &published)
}

async fn a_later_subscription_from_earliest_gets_what_was_there(stage: &Stage) -> Verdict {
    let published = stage.publish_many("orders.placed", 300).await?;
    stage.publish_many("users.created", 10).await?;
    let seat = stage.join_new("late", "orders.*").await?;
    require_same(&seat.finish(published.len()).await?, &published)
}

async fn the_same_event_again_is_a_duplicate_of_the_first(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let published = events("orders.placed", 50)?;
    let positions = stage.publish(&published).await?;
    stage.publish_many("orders.other", 50).await?;
    for (answer, position) in stage
        .backend
        .publish(&published)
        .await?
        .into_iter()
        .zip(positions)
    {
        let answer = answer?;
        require!(answer.duplicate, "a repeated event was stored again");
        if let Some(first) = answer.position {
            require_eq!(first, position, "position of a duplicate");
        }
    }
    seat.finish(100).await?;
    Ok(())
}

async fn a_duplicate_within_one_batch_is_recognised(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let published = events("orders.placed", 2)?;
    let twice: Vec<_> = published.iter().chain(&published).cloned().collect();
    let mut duplicates = Vec::new();
    for answer in stage.backend.publish(&twice).await? {
        duplicates.push(answer?.duplicate);
    }
    require_eq!(duplicates, [false, false, true, true], "duplicates");
    require_same(&seat.finish(2).await?, &published)
}

async fn the_same_id_of_another_source_is_another_event(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let mut published = Vec::new();
    for id in ["7", "0190a5e4-3f5b-7d2a-9c41-1f2e3d4c5b6a"] {
        for source in ["/a", "/b", "/A"] {
            let event = event("orders.placed")?.source(source);
            published.push(event.id(EventId::parse(id)?).build()?);
        }
    }
    stage.publish(&published).await?;
    require_same(&seat.finish(published.len()).await?, &published)
}

async fn concurrent_publishes_of_one_event_store_it_once(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let published = events("orders.placed", 20)?;
    let attempts = (0..10).flat_map(|_| published.iter().map(std::slice::from_ref));
    let mut stored = 0;
    for answers in join_all(attempts.map(|one| stage.backend.publish(one))).await {
        for answer in answers? {
            stored += usize::from(!answer?.duplicate);
        }
    }
    require_eq!(stored, published.len(), "publishes that stored something");
    require_same(&seat.finish(published.len()).await?, &published)
}

async fn a_duplicate_of_a_settled_event_is_not_delivered(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let published = stage.publish_many("orders.placed", 20).await?;
    seat.finish(20).await?;
    stage.backend.publish(&published).await?;
    seat.nothing().await?;
    let counts = stage.counts(&seat.subscription).await?;
    require_eq!(counts.acknowledged, 20, "acknowledged");
    require_eq!(counts.waiting, 0, "waiting");
    Ok(())
}

async fn answers_come_per_event_in_order(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let published = events("orders.placed", 200)?;
    let positions = stage.publish(&published).await?;
    let stands: BTreeMap<_, _> = positions.iter().zip(&published).collect();
    for delivery in seat.finish(200).await? {
        let event = stands.get(&delivery.position);
        require!(
            event.is_some_and(|event| **event == delivery.event),
            "the answer said another position than {} for {:?}",
            delivery.position,
            delivery.event
        );
    }
    Ok(())
}

async fn each_concurrent_caller_gets_its_own_answer(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let published = events("orders.placed", 256)?;
    let callers = published.iter().map(std::slice::from_ref);
    let mut stands = BTreeMap::new();
    let answers = join_all(callers.map(|one| stage.publish(one))).await;
    for (event, positions) in published.iter().zip(answers) {
        stands.extend(positions?.into_iter().map(|position| (position, event)));
    }
    require_eq!(stands.len(), published.len(), "positions given out");
    for delivery in seat.finish(256).await? {
        let event = stands.get(&delivery.position).copied();
        require_eq!(event, Some(&delivery.event), "event of a position");
    }
    Ok(())
}

async fn an_empty_batch_is_answered_with_nothing(stage: &Stage) -> Verdict {
    require_eq!(stage.backend.publish(&[]).await?.len(), 0, "answers");
    Ok(())
}

async fn too_large_data_are_refused_and_not_stored(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let limit = stage.backend.capabilities().limits.data_bytes;
    require!(limit <= 64 << 20, "data_bytes = {limit} is no limit");
    let fits = event("orders.placed")?
        .data(Data::binary(vec![7; limit]))
        .build()?;
    let too_large = event("orders.placed")?
        .data(Data::binary(vec![7; limit + 1]))
        .build()?;
    stage.publish(std::slice::from_ref(&fits)).await?;
    let refused = match stage.backend.publish(&[too_large]).await {
        Ok(answers) => answers.into_iter().next().and_then(Result::err),
        Err(error) => Some(error),
    };
    let kind = refused.map(|error| error.kind());
    require_eq!(kind, Some(ErrorKind::TooLarge), "answer to too large data");
    require_same(&seat.finish(1).await?, &[fits])
}

async fn too_large_a_batch_is_refused_whole(stage: &Stage) -> Verdict {
    let seat = stage.join_new("all", "**").await?;
    let limit = stage.backend.capabilities().limits.batch_events;
    require!(limit <= 100_000, "batch_events = {limit} is no limit");
    let refused = stage
        .backend
        .publish(&events("orders.placed", limit + 1)?)
        .await;
    require_eq!(
        refused.err().map(|error| error.kind()),
        Some(ErrorKind::TooLarge),
        "answer to too large a batch"
    );
    let published = stage.publish_many("orders.placed", 1).await?;
    let first = seat.finish(1).await?;
    require_same(&first, &published)?;
    for delivery in first {
        require_eq!(number(&delivery.event)?, 0, "number of the event");
    }
    Ok(())
}
