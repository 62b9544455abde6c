//! Saboteurs of settling, leases and crashes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::admin::Put;
use fanfare_core::backend::Backend;
use fanfare_core::consumer::{Member, MemberKind};
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::error::Result;
use fanfare_core::position::Position;
use fanfare_core::subscription::{SubscriptionName, SubscriptionSpec};
use parking_lot::Mutex;

use super::sabotage::{Sabotage, Tap};
use super::saboteurs;

saboteurs! {
    DropsSomeSettlements: 7, "answers every 100th settlement without counting it" => [
        "settle::a_thousand_acknowledgements_all_count",
    ];
    AcksAgain: 7, "brings an acknowledged delivery back" => [
        "settle::an_acknowledged_delivery_never_comes_back",
        "settle::a_thousand_acknowledgements_all_count",
    ];
    KeepsWhatIsDropped: 7, "keeps a dropped delivery as a dead letter" => [
        "settle::a_dropped_delivery_leaves_nothing_but_a_count",
    ];
    AnswersWithoutSettling: 5, "answers a settlement without making it" => [
        "wait::each_local_subscription_tells_how_it_settled",
        "wait::what_takes_longer_is_pending_and_goes_on",
        "wait::a_retry_in_between_is_no_settlement",
    ];
    IgnoresLeases: 8, "hands out what another member holds" => [
        "lease::a_leased_delivery_is_nobody_elses",
        "deliver::members_share_what_there_is",
        "deliver::members_at_work_together_get_each_event_once",
        "fleet::members_of_two_processes_get_each_event_once",
    ];
    SettlesForItselfAlone: 8, "takes a receipt only from the member that it was given to" => [
        "external::any_member_settles_what_another_received",
    ];
    NeverEndsALease: 8, "keeps the deliveries of a dead member leased" => [
        "lease::an_ended_lease_is_taken_over",
        "lease::a_lease_lasts_as_long_as_the_subscription_says",
        "fleet::what_a_lost_process_held_goes_to_another_when_its_lease_ends",
    ];
    TakesLateSettlements: 8, "answers Done to a late settlement" => [
        "lease::a_late_settlement_is_refused_and_changes_nothing",
        "lease::a_late_dead_letter_is_not_kept",
    ];
    TakesRepeatedSettlements: 8, "answers Done to a repeated settlement" => [
        "settle::a_repeated_settlement_changes_nothing",
        "settle::answers_come_in_order",
        "settle::one_receipt_twice_in_a_batch_counts_once",
        "settle::a_made_up_receipt_for_what_is_settled_changes_nothing",
    ];
    TakesAnyReceipt: 8, "answers Done to a receipt that it never gave out" => [
        "settle::a_receipt_that_was_never_given_out_is_unknown",
        "deliver::subscriptions_do_not_touch_each_other",
    ];
    ExtendsNothing: 8, "answers an extension without making it" => [
        "lease::an_extended_lease_is_kept",
        "lease::extending_what_is_over_says_so",
        "handle::a_heartbeat_keeps_a_long_delivery",
        "handle::a_handler_that_outlasts_three_leases_runs_once",
    ];
    ExtendsEverything: 8, "extends all that a member holds when one is extended" => [
        "lease::one_extended_delivery_does_not_keep_its_neighbours",
    ];
    ReusesEpochs: 8, "gives the new owner the epoch of the former one" => [
        "lease::the_new_owner_settles_with_a_newer_epoch",
    ];
    ChargesEveryLease: 9, "counts an attempt for whatever is leased again" => [
        "crash::neighbours_of_a_poison_event_are_never_charged",
        "settle::a_released_delivery_comes_back_at_once_uncounted",
        "crash::a_suspect_that_is_released_is_not_charged",
    ];
    HoldsSuspectsBack: 9, "gives nobody a suspect while another is held" => [
        "external::deliveries_of_a_dead_member_come_one_by_one_but_do_not_wait",
    ];
    IsolatesNobody: 9, "hands out more beside a delivery whose member died" => [
        "crash::deliveries_of_a_dead_member_come_back_alone",
        "crash::nothing_fresh_comes_beside_what_runs_alone",
        "crash::a_member_finishes_what_it_holds_before_it_gets_a_suspect",
    ];
    GivesBackWhatIsDropped: 9, "gives back at once what a dropped member held" => [
        "crash::a_member_that_is_dropped_has_died",
    ];
    NeverGivesUp: 9, "lets a poison event kill for ever" => [
        "crash::a_poison_event_is_given_up_after_its_attempts",
        "crash::a_poison_event_is_dropped_where_dead_letters_are_off",
    ];
}

#[derive(Debug, Default)]
struct DropsSomeSettlements(AtomicU64);

#[async_trait]
impl Sabotage for DropsSomeSettlements {
    async fn settle(
        &self,
        tap: &Tap,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        let answers = vec![Settled::Done; settlements.len()];
        let kept = settlements
            .into_iter()
            .filter(|_| self.0.fetch_add(1, Ordering::Relaxed) % 100 != 99);
        tap.real.settle(kept.collect()).await?;
        Ok(answers)
    }
}

/// Settles with something else than was asked for.
pub(super) async fn instead(
    tap: &Tap,
    settlements: Vec<(Receipt, Settlement)>,
    other: impl Fn(Settlement) -> Settlement,
) -> Result<Vec<Settled>> {
    let others = settlements
        .into_iter()
        .map(|(receipt, with)| (receipt, other(with)));
    tap.real.settle(others.collect()).await
}

#[derive(Debug, Default)]
struct AcksAgain;

#[async_trait]
impl Sabotage for AcksAgain {
    async fn settle(
        &self,
        tap: &Tap,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        instead(tap, settlements, |with| match with {
            Settlement::Ack => Settlement::Release,
            other => other,
        })
        .await
    }
}

#[derive(Debug, Default)]
struct KeepsWhatIsDropped;

#[async_trait]
impl Sabotage for KeepsWhatIsDropped {
    async fn settle(
        &self,
        tap: &Tap,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        instead(tap, settlements, |with| match with {
            Settlement::Drop => Settlement::DeadLetter {
                reason: "rejected".into(),
                error: String::new(),
            },
            other => other,
        })
        .await
    }
}

#[derive(Debug, Default)]
struct AnswersWithoutSettling;

#[async_trait]
impl Sabotage for AnswersWithoutSettling {
    async fn settle(
        &self,
        _: &Tap,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        Ok(vec![Settled::Done; settlements.len()])
    }
}

#[derive(Debug, Default)]
struct IgnoresLeases(Mutex<Vec<(SubscriptionName, Delivery)>>);

#[async_trait]
impl Sabotage for IgnoresLeases {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let came = tap.real.receive(max, wait).await?;
        let mut held = self.0.lock();
        if came.is_empty() {
            let of_ours = held.iter().filter(|(name, _)| *name == tap.subscription);
            return Ok(of_ours
                .map(|(_, delivery)| delivery.clone())
                .take(max)
                .collect());
        }
        held.extend(came.iter().map(|d| (tap.subscription.clone(), d.clone())));
        Ok(came)
    }
}

#[derive(Debug, Default)]
struct SettlesForItselfAlone(Mutex<BTreeMap<Receipt, usize>>);

/// A member's own address tells it from the others.
fn address(tap: &Tap) -> usize {
    std::ptr::from_ref(tap).addr()
}

#[async_trait]
impl Sabotage for SettlesForItselfAlone {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let came = tap.real.receive(max, wait).await?;
        let owned = came.iter().map(|delivery| (delivery.receipt, address(tap)));
        self.0.lock().extend(owned);
        Ok(came)
    }

    async fn settle(
        &self,
        tap: &Tap,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        let strange = |(receipt, _): &(Receipt, Settlement)| {
            self.0
                .lock()
                .get(receipt)
                .is_some_and(|owner| *owner != address(tap))
        };
        if settlements.iter().any(strange) {
            return Ok(vec![Settled::Unknown; settlements.len()]);
        }
        tap.real.settle(settlements).await
    }
}

#[derive(Debug, Default)]
struct NeverEndsALease;

#[async_trait]
impl Sabotage for NeverEndsALease {
    async fn put(&self, real: &dyn Backend, spec: &SubscriptionSpec) -> Result<Put> {
        let mut endless = spec.clone();
        endless.lease = Duration::from_hours(12);
        real.admin().put(&endless).await
    }
}

/// Answers Done where the backend answers `refused`.
async fn say_done(
    tap: &Tap,
    settlements: Vec<(Receipt, Settlement)>,
    refused: Settled,
) -> Result<Vec<Settled>> {
    let mut answers = tap.real.settle(settlements).await?;
    for answer in &mut answers {
        if *answer == refused {
            *answer = Settled::Done;
        }
    }
    Ok(answers)
}

#[derive(Debug, Default)]
struct TakesLateSettlements;

#[async_trait]
impl Sabotage for TakesLateSettlements {
    async fn settle(
        &self,
        tap: &Tap,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        say_done(tap, settlements, Settled::Late).await
    }
}

#[derive(Debug, Default)]
struct TakesRepeatedSettlements;

#[async_trait]
impl Sabotage for TakesRepeatedSettlements {
    async fn settle(
        &self,
        tap: &Tap,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        say_done(tap, settlements, Settled::Already).await
    }
}

#[derive(Debug, Default)]
struct TakesAnyReceipt;

#[async_trait]
impl Sabotage for TakesAnyReceipt {
    async fn settle(
        &self,
        tap: &Tap,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        say_done(tap, settlements, Settled::Unknown).await
    }
}

#[derive(Debug, Default)]
struct ExtendsNothing;

#[async_trait]
impl Sabotage for ExtendsNothing {
    async fn extend(&self, _: &Tap, receipts: &[Receipt], _: Duration) -> Result<Vec<Settled>> {
        Ok(vec![Settled::Done; receipts.len()])
    }
}

#[derive(Debug, Default)]
struct ExtendsEverything(Mutex<Vec<Receipt>>);

#[async_trait]
impl Sabotage for ExtendsEverything {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let came = tap.real.receive(max, wait).await?;
        self.0
            .lock()
            .extend(came.iter().map(|delivery| delivery.receipt));
        Ok(came)
    }

    async fn extend(
        &self,
        tap: &Tap,
        receipts: &[Receipt],
        lease: Duration,
    ) -> Result<Vec<Settled>> {
        let held = self.0.lock().clone();
        tap.real.extend(&held, lease).await?;
        tap.real.extend(receipts, lease).await
    }
}

/// Shows the first epoch of each position and settles with the newest.
#[derive(Debug, Default)]
struct ReusesEpochs(Mutex<BTreeMap<Position, (u64, u64)>>);

#[async_trait]
impl Sabotage for ReusesEpochs {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let mut came = tap.real.receive(max, wait).await?;
        let mut epochs = self.0.lock();
        for delivery in &mut came {
            let epoch = delivery.receipt.epoch;
            let (first, newest) = epochs.entry(delivery.position).or_insert((epoch, epoch));
            *newest = epoch;
            delivery.receipt.epoch = *first;
        }
        Ok(came)
    }

    async fn settle(
        &self,
        tap: &Tap,
        mut settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        for (receipt, _) in &mut settlements {
            if let Some((_, newest)) = self.0.lock().get(&receipt.position) {
                receipt.epoch = *newest;
            }
        }
        tap.real.settle(settlements).await
    }
}

#[derive(Debug, Default)]
struct ChargesEveryLease(Mutex<BTreeMap<(SubscriptionName, Position), u32>>);

#[async_trait]
impl Sabotage for ChargesEveryLease {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let mut came = tap.real.receive(max, wait).await?;
        for delivery in &mut came {
            let mut leased = self.0.lock();
            let place = (tap.subscription.clone(), delivery.position);
            let times = leased.entry(place).or_default();
            *times += 1;
            delivery.attempt = *times;
        }
        Ok(came)
    }
}

#[derive(Debug, Default)]
struct HoldsSuspectsBack;

impl Sabotage for HoldsSuspectsBack {
    fn member(&self, mut member: Member) -> Member {
        member.kind = MemberKind::Embedded;
        member
    }
}

#[derive(Debug, Default)]
struct IsolatesNobody;

impl Sabotage for IsolatesNobody {
    fn member(&self, mut member: Member) -> Member {
        member.kind = MemberKind::External;
        member
    }
}

#[derive(Debug, Default)]
struct NeverGivesUp;

#[async_trait]
impl Sabotage for NeverGivesUp {
    async fn put(&self, real: &dyn Backend, spec: &SubscriptionSpec) -> Result<Put> {
        let mut stubborn = spec.clone();
        stubborn.retry.max_attempts = 1_000;
        real.admin().put(&stubborn).await
    }
}

#[derive(Debug, Default)]
struct GivesBackWhatIsDropped;

impl Sabotage for GivesBackWhatIsDropped {
    fn dropped(&self, tap: &Tap) {
        let real = tap.real.clone();
        // Nobody waits for it: the case looks at what comes of it.
        tokio::spawn(async move { real.close().await });
    }
}
