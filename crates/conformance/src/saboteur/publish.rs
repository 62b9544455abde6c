//! Saboteurs of publishing.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use fanfare_core::ErrorKind;
use fanfare_core::backend::{Backend, Published};
use fanfare_core::error::Result;
use fanfare_core::event::Event;
use fanfare_core::id::EventId;
use parking_lot::Mutex;

use super::sabotage::Sabotage;
use super::saboteurs;

saboteurs! {
    LosesSomeEvents: 1, "acknowledges every 100th event without keeping it" => [
        "publish::an_acknowledged_event_reaches_every_subscription",
        "publish::concurrent_publishes_are_all_kept",
        "publish::a_later_subscription_from_earliest_gets_what_was_there",
    ];
    ForgetsTheDuplicateCheck: 2, "stores the same event again" => [
        "publish::the_same_event_again_is_a_duplicate_of_the_first",
        "publish::a_duplicate_within_one_batch_is_recognised",
        "publish::concurrent_publishes_of_one_event_store_it_once",
        "publish::a_duplicate_of_a_settled_event_is_not_delivered",
        "enqueue::an_unknown_outcome_is_said_and_safe_to_repeat",
    ];
    ComparesIdsWithoutSource: 2, "takes events for the same that only share an id" => [
        "publish::the_same_id_of_another_source_is_another_event",
    ];
    AnswersInReverse: 3, "gives the answers of a batch in reverse order" => [
        "publish::answers_come_per_event_in_order",
    ];
    MixesUpCallers: 3, "gives a caller the position of another's event" => [
        "publish::each_concurrent_caller_gets_its_own_answer",
    ];
    RefusesNothing: 3, "fails a publish of nothing" => [
        "publish::an_empty_batch_is_answered_with_nothing",
    ];
    KeepsTheFirstOfABatch: 4, "acknowledges a batch and keeps its first event" => [
        "enqueue::what_is_queued_is_published_by_a_shutdown",
    ];
    TakesAnySize: 6, "answers Ok to what is too large" => [
        "publish::too_large_data_are_refused_and_not_stored",
        "publish::too_large_a_batch_is_refused_whole",
    ];
}

/// Publishes one by one, so that a saboteur can choose.
async fn each(
    real: &dyn Backend,
    events: &[Event],
    mut lost: impl FnMut(&Event) -> bool,
) -> Result<Vec<Result<Published>>> {
    let mut answers = Vec::with_capacity(events.len());
    for event in events {
        if lost(event) {
            let position = Some(real.history()?.head().await?);
            let duplicate = false;
            answers.push(Ok(Published {
                position,
                duplicate,
            }));
        } else {
            answers.extend(real.publish(std::slice::from_ref(event)).await?);
        }
    }
    Ok(answers)
}

#[derive(Debug, Default)]
struct LosesSomeEvents(AtomicU64);

#[async_trait]
impl Sabotage for LosesSomeEvents {
    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        each(real, events, |_| {
            self.0.fetch_add(1, Ordering::Relaxed) % 100 == 99
        })
        .await
    }
}

#[derive(Debug, Default)]
struct ForgetsTheDuplicateCheck;

#[async_trait]
impl Sabotage for ForgetsTheDuplicateCheck {
    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        let mut answers = real.publish(events).await?;
        for (answer, event) in answers.iter_mut().zip(events) {
            if answer.as_ref().is_ok_and(|published| published.duplicate) {
                let again = event.to_builder().id(EventId::generate()).build()?;
                if let Some(stored) = real.publish(&[again]).await?.pop() {
                    *answer = stored;
                }
            }
        }
        Ok(answers)
    }
}

#[derive(Debug, Default)]
struct ComparesIdsWithoutSource(Mutex<BTreeSet<EventId>>);

#[async_trait]
impl Sabotage for ComparesIdsWithoutSource {
    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        each(real, events, |event| {
            !self.0.lock().insert(event.id().clone())
        })
        .await
    }
}

#[derive(Debug, Default)]
struct AnswersInReverse;

#[async_trait]
impl Sabotage for AnswersInReverse {
    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        let mut answers = real.publish(events).await?;
        answers.reverse();
        Ok(answers)
    }
}

#[derive(Debug, Default)]
struct MixesUpCallers(Mutex<Option<Published>>);

#[async_trait]
impl Sabotage for MixesUpCallers {
    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        let mut answers = real.publish(events).await?;
        if let [Ok(own)] = &mut answers[..] {
            let former = self.0.lock().replace(*own);
            *own = former.unwrap_or(*own);
        }
        Ok(answers)
    }
}

#[derive(Debug, Default)]
struct KeepsTheFirstOfABatch;

#[async_trait]
impl Sabotage for KeepsTheFirstOfABatch {
    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        let first = events.first().map(Event::id);
        each(real, events, |event| Some(event.id()) != first).await
    }
}

#[derive(Debug, Default)]
struct RefusesNothing;

#[async_trait]
impl Sabotage for RefusesNothing {
    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        if events.is_empty() {
            return Err(fanfare_core::Error::invalid("", "nothing to publish"));
        }
        real.publish(events).await
    }
}

#[derive(Debug, Default)]
struct TakesAnySize;

#[async_trait]
impl Sabotage for TakesAnySize {
    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        let taken = Published {
            position: None,
            duplicate: false,
        };
        match real.publish(events).await {
            Err(error) if error.kind() == ErrorKind::TooLarge => {
                Ok(events.iter().map(|_| Ok(taken)).collect())
            }
            Ok(mut answers) => {
                for answer in &mut answers {
                    if answer
                        .as_ref()
                        .is_err_and(|e| e.kind() == ErrorKind::TooLarge)
                    {
                        *answer = Ok(taken);
                    }
                }
                Ok(answers)
            }
            other => other,
        }
    }
}
