//! Saboteurs of dead letters.

use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use fanfare_core::backend::Backend;
use fanfare_core::data::Data;
use fanfare_core::dead_letter::{Acted, DeadLetter, DeadLetterFilter, DeadLetterPage, Selection};
use fanfare_core::delivery::{Receipt, Settled, Settlement};
use fanfare_core::error::Result;
use fanfare_core::event::Event;
use fanfare_core::history::Recorded;
use fanfare_core::id::EventId;
use fanfare_core::timestamp::Timestamp;
use parking_lot::Mutex;

use super::sabotage::{Sabotage, Tap};
use super::saboteurs;

saboteurs! {
    DropsTheDead: 14, "drops what is to be kept as a dead letter" => [
        "dead_letter::a_dead_letter_keeps_all_that_is_known",
        "dead_letter::a_redrive_returns_each_letter_once_to_its_own_subscription",
        "handle::a_handler_chooses_how_a_delivery_ends",
        "handle::an_event_without_a_route_ends_as_the_subscription_says",
    ];
    ForgetsWhatFailed: 14, "keeps dead letters without their error" => [
        "dead_letter::a_dead_letter_keeps_all_that_is_known",
    ];
    ForgetsTheFirstFailure: 14, "shows the last failure as the first" => [
        "dead_letter::attempts_and_first_failure_are_kept",
    ];
    RedrivesTwice: 15, "redrives a letter twice" => [
        "dead_letter::a_redrive_returns_each_letter_once_to_its_own_subscription",
        "dead_letter::a_redrive_pressed_often_at_once_redrives_once",
    ];
    RedrivesToEverybody: 15, "publishes a letter again instead of redriving it" => [
        "dead_letter::a_redrive_returns_each_letter_once_to_its_own_subscription",
    ];
    RedrivesWithoutLimit: 15, "ignores the limit of a redrive" => [
        "handle::a_redrive_through_the_bus_keeps_to_limit_rate_and_dry_run",
        "dead_letter::a_redrive_keeps_to_its_limit_oldest_first",
    ];
    CountsWhatIsGone: 15, "counts a letter that is gone" => [
        "dead_letter::ids_that_are_gone_are_passed_over",
    ];
    RedrivesOnce: 15, "redrives a delivery only the first time it dies" => [
        "dead_letter::a_redriven_delivery_can_die_again",
    ];
    IgnoresFilters: 15, "counts all letters whatever the filter" => [
        "dead_letter::letters_are_listed_by_every_filter",
    ];
    ActsWhenAsked: 15, "redrives the letters that it is to count" => [
        "dead_letter::counting_changes_nothing",
    ];
    DiscardsNothing: 15, "answers a discard without making it" => [
        "dead_letter::a_discarded_letter_is_gone_and_counts_as_dropped",
        "foreign::it_can_be_discarded_but_not_edited",
    ];
    LosesTheOriginal: 15, "keeps only the edited data" => [
        "dead_letter::an_edit_keeps_the_first_original_and_is_what_a_redrive_delivers",
    ];
    EditsTheLog: 15, "shows edited data in the log" => [
        "dead_letter::an_edit_leaves_the_log_as_it_was",
    ];
    ListsOnePage: 15, "ends the list of letters with its first page" => [
        "dead_letter::pages_hold_each_letter_once_oldest_first",
    ];
    EditsNothing: 15, "shows an edit without making it" => [
        "dead_letter::an_edit_keeps_the_first_original_and_is_what_a_redrive_delivers",
    ];
}

#[derive(Debug, Default)]
struct DropsTheDead;

#[async_trait]
impl Sabotage for DropsTheDead {
    async fn settle(
        &self,
        tap: &Tap,
        mut settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        for (_, with) in &mut settlements {
            if matches!(with, Settlement::DeadLetter { .. }) {
                *with = Settlement::Drop;
            }
        }
        tap.real.settle(settlements).await
    }
}

#[derive(Debug, Default)]
struct ForgetsWhatFailed;

impl Sabotage for ForgetsWhatFailed {
    fn letter(&self, letter: &mut DeadLetter) {
        letter.error.clear();
    }
}

#[derive(Debug, Default)]
struct ForgetsTheFirstFailure;

impl Sabotage for ForgetsTheFirstFailure {
    fn letter(&self, letter: &mut DeadLetter) {
        letter.first_failure = letter.last_failure;
    }
}

/// Copies, with new ids, of the events of the selected letters.
async fn copies(real: &dyn Backend, selection: &Selection) -> Result<Vec<Event>> {
    let all = DeadLetterFilter::default();
    let filter = match selection {
        Selection::Filter(filter) => filter,
        Selection::Ids(_) => &all,
    };
    let letters = real.dead_letters().list(filter, None, 1_000).await?.items;
    let events = letters.iter().filter_map(|letter| letter.body.event());
    events
        .map(|e| e.to_builder().id(EventId::generate()).build())
        .collect()
}

#[derive(Debug, Default)]
struct RedrivesTwice;

#[async_trait]
impl Sabotage for RedrivesTwice {
    async fn redrive(
        &self,
        real: &dyn Backend,
        selection: &Selection,
        limit: usize,
    ) -> Result<Acted> {
        let again = copies(real, selection).await?;
        let mut acted = real.dead_letters().redrive(selection, limit).await?;
        for stored in real.publish(&again).await? {
            acted.done += u64::from(stored.is_ok());
        }
        Ok(acted)
    }
}

#[derive(Debug, Default)]
struct RedrivesToEverybody;

#[async_trait]
impl Sabotage for RedrivesToEverybody {
    async fn redrive(&self, real: &dyn Backend, selection: &Selection, _: usize) -> Result<Acted> {
        let again = copies(real, selection).await?;
        let acted = real.dead_letters().discard(selection).await?;
        real.publish(&again).await?;
        Ok(acted)
    }
}

#[derive(Debug, Default)]
struct RedrivesWithoutLimit;

#[async_trait]
impl Sabotage for RedrivesWithoutLimit {
    async fn redrive(&self, real: &dyn Backend, selection: &Selection, _: usize) -> Result<Acted> {
        real.dead_letters().redrive(selection, 10_000).await
    }
}

#[derive(Debug, Default)]
struct CountsWhatIsGone;

#[async_trait]
impl Sabotage for CountsWhatIsGone {
    async fn count(&self, real: &dyn Backend, _: &Selection) -> Result<u64> {
        let all = Selection::Filter(DeadLetterFilter::default());
        Ok(real.dead_letters().count(&all).await? + 1)
    }
}

#[derive(Debug, Default)]
struct RedrivesOnce(AtomicBool);

#[async_trait]
impl Sabotage for RedrivesOnce {
    async fn redrive(
        &self,
        real: &dyn Backend,
        selection: &Selection,
        limit: usize,
    ) -> Result<Acted> {
        if self.0.swap(true, Ordering::Relaxed) {
            return Ok(Acted::default());
        }
        real.dead_letters().redrive(selection, limit).await
    }
}

#[derive(Debug, Default)]
struct IgnoresFilters;

#[async_trait]
impl Sabotage for IgnoresFilters {
    async fn count(&self, real: &dyn Backend, _: &Selection) -> Result<u64> {
        let all = Selection::Filter(DeadLetterFilter::default());
        real.dead_letters().count(&all).await
    }
}

#[derive(Debug, Default)]
struct ActsWhenAsked;

#[async_trait]
impl Sabotage for ActsWhenAsked {
    async fn count(&self, real: &dyn Backend, selection: &Selection) -> Result<u64> {
        Ok(real.dead_letters().redrive(selection, 10_000).await?.done)
    }
}

#[derive(Debug, Default)]
struct DiscardsNothing;

#[async_trait]
impl Sabotage for DiscardsNothing {
    async fn discard(&self, real: &dyn Backend, selection: &Selection) -> Result<Acted> {
        let matched = real.dead_letters().count(selection).await?;
        Ok(Acted {
            matched,
            done: matched,
        })
    }
}

#[derive(Debug, Default)]
struct LosesTheOriginal;

impl Sabotage for LosesTheOriginal {
    fn letter(&self, letter: &mut DeadLetter) {
        letter.original = None;
    }
}

#[derive(Debug, Default)]
struct EditsTheLog(Mutex<Option<Data>>);

#[async_trait]
impl Sabotage for EditsTheLog {
    async fn replace(&self, real: &dyn Backend, id: &str, data: Data) -> Result<DeadLetter> {
        *self.0.lock() = Some(data.clone());
        real.dead_letters().replace(id, data).await
    }

    fn found(&self, found: &mut Vec<Recorded>) {
        for recorded in found {
            let edited = self.0.lock().clone();
            let edited = edited.map(|data| recorded.event.to_builder().data(data).build());
            if let Some(Ok(edited)) = edited {
                recorded.event = edited;
            }
        }
    }
}

#[derive(Debug, Default)]
struct ListsOnePage;

impl Sabotage for ListsOnePage {
    fn letters(&self, page: &mut DeadLetterPage) {
        page.next = None;
    }
}

#[derive(Debug, Default)]
struct EditsNothing;

#[async_trait]
impl Sabotage for EditsNothing {
    async fn replace(&self, real: &dyn Backend, id: &str, data: Data) -> Result<DeadLetter> {
        let mut letter = real.dead_letters().get(id).await?;
        if let Some(event) = letter.body.event() {
            letter.original = event.data().cloned();
            let edited = event
                .to_builder()
                .time(Timestamp::EPOCH)
                .data(data)
                .build()?;
            letter.body = fanfare_core::dead_letter::DeadBody::Event(edited);
        }
        Ok(letter)
    }
}
