//! Saboteurs of operating subscriptions, of counting, and of retention.

use async_trait::async_trait;
use fanfare_core::ErrorKind;
use fanfare_core::admin::{Audited, Put, SeekTo, Sought, SubscriptionInfo};
use fanfare_core::backend::{Backend, Published};
use fanfare_core::error::Result;
use fanfare_core::event::Event;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};

use super::sabotage::Sabotage;
use super::saboteurs;

saboteurs! {
    MendsBadOptions: 6, "takes options out of range and makes them fit" => [
        "subscription::values_out_of_range_are_refused",
    ];
    ForgetsWhenFull: 19, "acknowledges what a full stream does not keep" => [
        "retention::a_full_stream_refuses_and_forgets_nothing_unsettled",
    ];
    StaysFull: 19, "never takes an event again once it was full" => [
        "retention::a_full_stream_takes_events_again_once_all_is_settled",
    ];
    CountsWrongly: 22, "counts one acknowledgement too many" => [
        "conservation::counts_tell_where_every_delivery_is",
        "conservation::counts_are_exact_after_every_random_step",
        "conservation::the_books_balance_after_every_random_step",
        "conservation::the_books_balance_under_order",
    ];
    CooksTheBooks: 22, "counts wrongly on both sides of the balance" => [
        "conservation::counts_tell_where_every_delivery_is",
        "conservation::the_books_balance_after_many_members_worked_at_once",
        "conservation::each_subscription_has_its_own_books",
        "seek::the_balance_starts_anew_after_a_seek",
    ];
    TakesOtherPatterns: 24, "replaces the patterns when created again" => [
        "subscription::other_patterns_are_a_conflict_that_names_both",
    ];
    TakesAnotherOrder: 24, "answers a conflict of order as if nothing were wrong" => [
        "subscription::another_order_is_a_conflict",
    ];
    ChangesNothing: 24, "answers changed options without changing them" => [
        "subscription::options_can_be_changed",
    ];
    CreatesWhatIsMissing: 24, "creates a subscription that is deleted" => [
        "subscription::what_does_not_exist_is_not_found",
    ];
    DeletesWhatIsUnsettled: 24, "deletes a subscription with events unsettled" => [
        "subscription::deleting_is_refused_with_the_counts",
    ];
    NeverDeletes: 24, "answers a forced delete without making it" => [
        "subscription::a_forced_delete_leaves_nothing_behind",
    ];
    StartsAtTheBeginning: 24, "starts every subscription with the oldest event" => [
        "subscription::the_latest_start_begins_with_the_next_event",
        "subscription::a_start_in_time_begins_there",
        "subscription::a_start_behind_a_position_begins_there",
        "subscription::start_counts_at_creation_only",
    ];
    StoresWhatIsEphemeral: 24, "keeps a subscription that is to go with its consumer" => [
        "subscription::an_ephemeral_subscription_goes_with_its_consumer",
        "subscription::all_are_listed_by_name",
        "handle::a_broadcast_hears_what_happens_from_now_on",
    ];
    PausesInName: 24, "shows a subscription as paused and goes on" => [
        "subscription::a_paused_subscription_gives_out_nothing_new",
    ];
    ChangesThePast: 24, "applies changed patterns to earlier events" => [
        "pattern::changed_patterns_hold_from_now_on",
    ];
    MovesOnADryRun: 24, "moves a subscription on a dry run" => [
        "seek::a_dry_run_says_the_same_and_changes_nothing",
    ];
    MovesNothing: 24, "answers a seek without making it" => [
        "seek::seeking_to_the_earliest_replays_everything",
        "seek::seeking_to_the_latest_skips_what_waits",
        "seek::seeking_behind_a_position_goes_on_there",
        "seek::seeking_to_a_time_goes_on_there",
        "seek::seeking_to_an_event_includes_it",
        "seek::seeking_makes_open_leases_late",
        "seek::seeking_forgets_waiting_retries",
        "seek::the_balance_starts_anew_after_a_seek",
    ];
    DiscardsOnASeek: 24, "throws the dead letters away when moved" => [
        "seek::dead_letters_stay_when_a_subscription_is_moved",
    ];
    GuessesEvents: 24, "takes an unknown event for the oldest" => [
        "seek::an_unknown_or_ambiguous_event_is_refused",
    ];
}

#[derive(Debug, Default)]
struct MendsBadOptions;

#[async_trait]
impl Sabotage for MendsBadOptions {
    async fn put(&self, real: &dyn Backend, spec: &SubscriptionSpec) -> Result<Put> {
        let mut fitting = spec.clone();
        if spec.check().is_err() {
            let fresh = SubscriptionSpec::new(spec.name.clone(), spec.patterns.clone());
            fitting.lease = fresh.lease;
            fitting.retry = fresh.retry;
        }
        real.admin().put(&fitting).await
    }
}

#[derive(Debug, Default)]
struct ForgetsWhenFull;

#[async_trait]
impl Sabotage for ForgetsWhenFull {
    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        let full = |error: &fanfare_core::Error| error.kind() == ErrorKind::Full;
        let kept = Published {
            position: None,
            duplicate: false,
        };
        match real.publish(events).await {
            Err(error) if full(&error) => Ok(events.iter().map(|_| Ok(kept)).collect()),
            Err(error) => Err(error),
            Ok(answers) => {
                let pretend = |answer: Result<Published>| match answer {
                    Err(error) if full(&error) => Ok(kept),
                    other => other,
                };
                Ok(answers.into_iter().map(pretend).collect())
            }
        }
    }
}

#[derive(Debug, Default)]
struct StaysFull(std::sync::atomic::AtomicBool);

#[async_trait]
impl Sabotage for StaysFull {
    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        use std::sync::atomic::Ordering::Relaxed;
        if self.0.load(Relaxed) {
            return Err(fanfare_core::Error::new(
                ErrorKind::Full,
                "the stream is full",
            ));
        }
        let answers = real.publish(events).await;
        let full = |error: &fanfare_core::Error| error.kind() == ErrorKind::Full;
        let refused = match &answers {
            Err(error) => full(error),
            Ok(answers) => answers
                .iter()
                .any(|answer| answer.as_ref().is_err_and(full)),
        };
        self.0.store(refused, Relaxed);
        answers
    }
}

#[derive(Debug, Default)]
struct CountsWrongly;

impl Sabotage for CountsWrongly {
    fn show(&self, info: &mut SubscriptionInfo) {
        info.counts.acknowledged += 1;
    }

    fn account(&self, audited: &mut Audited) {
        audited.counts.acknowledged += 1;
    }
}

#[derive(Debug, Default)]
struct CooksTheBooks;

impl Sabotage for CooksTheBooks {
    fn show(&self, info: &mut SubscriptionInfo) {
        info.counts.acknowledged += 1;
        info.counts.published += 1;
    }

    fn account(&self, audited: &mut Audited) {
        audited.counts.acknowledged += 1;
        audited.counts.published += 1;
    }
}

#[derive(Debug, Default)]
struct TakesOtherPatterns;

#[async_trait]
impl Sabotage for TakesOtherPatterns {
    async fn put(&self, real: &dyn Backend, spec: &SubscriptionSpec) -> Result<Put> {
        let Ok(info) = real.admin().get(&spec.name).await else {
            return real.admin().put(spec).await;
        };
        if info.spec.patterns != spec.patterns {
            real.admin()
                .set_patterns(&spec.name, spec.patterns.clone())
                .await?;
        }
        real.admin().put(spec).await
    }
}

#[derive(Debug, Default)]
struct TakesAnotherOrder;

#[async_trait]
impl Sabotage for TakesAnotherOrder {
    async fn put(&self, real: &dyn Backend, spec: &SubscriptionSpec) -> Result<Put> {
        match real.admin().put(spec).await {
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(Put::Changed),
            other => other,
        }
    }
}

#[derive(Debug, Default)]
struct ChangesNothing;

#[async_trait]
impl Sabotage for ChangesNothing {
    async fn put(&self, real: &dyn Backend, spec: &SubscriptionSpec) -> Result<Put> {
        if real.admin().get(&spec.name).await.is_ok() {
            return Ok(Put::Changed);
        }
        real.admin().put(spec).await
    }
}

#[derive(Debug, Default)]
struct CreatesWhatIsMissing;

#[async_trait]
impl Sabotage for CreatesWhatIsMissing {
    async fn delete(&self, real: &dyn Backend, name: &SubscriptionName, force: bool) -> Result<()> {
        let everything = PatternSet::parse(["**"])?;
        let spec = SubscriptionSpec::new(name.clone(), everything);
        if real.admin().get(name).await.is_err() {
            real.admin().put(&spec).await?;
        }
        real.admin().delete(name, force).await
    }
}

#[derive(Debug, Default)]
struct DeletesWhatIsUnsettled;

#[async_trait]
impl Sabotage for DeletesWhatIsUnsettled {
    async fn delete(&self, real: &dyn Backend, name: &SubscriptionName, _: bool) -> Result<()> {
        real.admin().delete(name, true).await
    }
}

#[derive(Debug, Default)]
struct NeverDeletes;

#[async_trait]
impl Sabotage for NeverDeletes {
    async fn delete(&self, real: &dyn Backend, name: &SubscriptionName, force: bool) -> Result<()> {
        if force {
            return Ok(());
        }
        real.admin().delete(name, force).await
    }
}

#[derive(Debug, Default)]
struct StartsAtTheBeginning;

#[async_trait]
impl Sabotage for StartsAtTheBeginning {
    async fn put(&self, real: &dyn Backend, spec: &SubscriptionSpec) -> Result<Put> {
        let mut early = spec.clone();
        early.start = Start::Earliest;
        real.admin().put(&early).await
    }
}

#[derive(Debug, Default)]
struct StoresWhatIsEphemeral;

#[async_trait]
impl Sabotage for StoresWhatIsEphemeral {
    async fn put(&self, real: &dyn Backend, spec: &SubscriptionSpec) -> Result<Put> {
        let mut durable = spec.clone();
        durable.ephemeral = false;
        real.admin().put(&durable).await
    }
}

#[derive(Debug, Default)]
struct PausesInName(std::sync::atomic::AtomicBool);

#[async_trait]
impl Sabotage for PausesInName {
    async fn set_paused(&self, _: &dyn Backend, _: &SubscriptionName, paused: bool) -> Result<()> {
        self.0.store(paused, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    fn show(&self, info: &mut SubscriptionInfo) {
        info.paused = self.0.load(std::sync::atomic::Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct ChangesThePast;

#[async_trait]
impl Sabotage for ChangesThePast {
    async fn set_patterns(
        &self,
        real: &dyn Backend,
        name: &SubscriptionName,
        patterns: PatternSet,
    ) -> Result<()> {
        let mut spec = real.admin().get(name).await?.spec;
        real.admin().delete(name, true).await?;
        spec.patterns = patterns;
        real.admin().put(&spec).await.map(|_| ())
    }
}

#[derive(Debug, Default)]
struct MovesOnADryRun;

#[async_trait]
impl Sabotage for MovesOnADryRun {
    async fn seek(
        &self,
        real: &dyn Backend,
        name: &SubscriptionName,
        to: &SeekTo,
        _: bool,
    ) -> Result<Sought> {
        real.admin().seek(name, to, false).await
    }
}

#[derive(Debug, Default)]
struct MovesNothing;

#[async_trait]
impl Sabotage for MovesNothing {
    async fn seek(
        &self,
        real: &dyn Backend,
        name: &SubscriptionName,
        to: &SeekTo,
        _: bool,
    ) -> Result<Sought> {
        real.admin().seek(name, to, true).await
    }
}

#[derive(Debug, Default)]
struct DiscardsOnASeek;

#[async_trait]
impl Sabotage for DiscardsOnASeek {
    async fn seek(
        &self,
        real: &dyn Backend,
        name: &SubscriptionName,
        to: &SeekTo,
        dry_run: bool,
    ) -> Result<Sought> {
        real.dead_letters()
            .discard(&crate::stage::every_letter())
            .await?;
        real.admin().seek(name, to, dry_run).await
    }
}

#[derive(Debug, Default)]
struct GuessesEvents;

#[async_trait]
impl Sabotage for GuessesEvents {
    async fn seek(
        &self,
        real: &dyn Backend,
        name: &SubscriptionName,
        to: &SeekTo,
        dry_run: bool,
    ) -> Result<Sought> {
        match real.admin().seek(name, to, dry_run).await {
            Err(_) => real.admin().seek(name, &SeekTo::Earliest, dry_run).await,
            sought => sought,
        }
    }
}
