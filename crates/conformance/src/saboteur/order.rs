//! Saboteurs of order by key.

use async_trait::async_trait;
use fanfare_core::admin::{Put, SubscriptionInfo};
use fanfare_core::backend::Backend;
use fanfare_core::delivery::{Receipt, Settled, Settlement};
use fanfare_core::error::Result;
use fanfare_core::id::EventId;
use fanfare_core::subscription::{OnDead, SubscriptionSpec};

use super::sabotage::{Sabotage, Tap};
use super::saboteurs;

saboteurs! {
    ForgetsOrder: 11, "treats an ordered subscription like any other" => [
        "order::one_event_of_a_key_at_a_time",
        "order::a_retry_holds_its_key_and_no_other",
        "order::a_release_does_not_let_the_next_of_its_key_pass",
        "order::a_takeover_keeps_the_order",
        "order::order_holds_whatever_the_members_do",
        "order::a_key_goes_on_after_its_dead_letter",
        "handle::handlers_keep_the_order_of_keys",
        "restart::order_holds_across_a_restart",
        "fleet::the_order_of_keys_holds_across_processes",
    ];
    RequeuesRetries: 11, "puts a retry at the end of the log" => [
        "order::a_retry_holds_its_key_and_no_other",
        "order::order_holds_whatever_the_members_do",
    ];
    OrdersEverything: 11, "handles one event at a time, whatever its key" => [
        "order::events_without_a_key_do_not_wait_for_each_other",
    ];
    NeverParks: 11, "lets a key go on that is to wait behind its dead letter" => [
        "order::a_key_parks_behind_its_dead_letter",
        "park::parked_keys_keep_their_order_whatever_is_redriven_or_discarded",
        "order::a_parked_key_goes_on_after_a_redrive",
    ];
    ParksAlways: 11, "lets a key wait that is to go on after its dead letter", Park => [
        "order::a_key_goes_on_after_its_dead_letter",
    ];
    ParksForEver: 11, "lets a key wait behind a dead letter that was discarded" => [
        "order::a_parked_key_goes_on_after_a_discard",
    ];
}

async fn put_other(
    real: &dyn Backend,
    spec: &SubscriptionSpec,
    edit: impl FnOnce(&mut SubscriptionSpec) + Send,
) -> Result<Put> {
    let mut other = spec.clone();
    edit(&mut other);
    real.admin().put(&other).await
}

#[derive(Debug, Default)]
struct ForgetsOrder;

#[async_trait]
impl Sabotage for ForgetsOrder {
    async fn put(&self, real: &dyn Backend, spec: &SubscriptionSpec) -> Result<Put> {
        put_other(real, spec, |spec| spec.ordered = false).await
    }

    fn show(&self, info: &mut SubscriptionInfo) {
        info.spec.ordered = true;
    }
}

#[derive(Debug, Default)]
struct RequeuesRetries;

#[async_trait]
impl Sabotage for RequeuesRetries {
    async fn settle(
        &self,
        tap: &Tap,
        mut settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        let history = tap.backend.history()?;
        let mut copies = Vec::new();
        for (receipt, with) in &mut settlements {
            if matches!(with, Settlement::Retry { .. }) {
                *with = Settlement::Ack;
                let at = fanfare_core::history::EventQuery {
                    after: Some(fanfare_core::position::Position(receipt.position.0 - 1)),
                    limit: 1,
                    ..Default::default()
                };
                for recorded in history.events(&at).await?.items {
                    let copy = recorded.event.to_builder().id(EventId::generate());
                    copies.push(copy.build()?);
                }
            }
        }
        tap.backend.publish(&copies).await?;
        tap.real.settle(settlements).await
    }
}

/// Gives out one delivery at a time and holds the others back.
#[derive(Debug, Default)]
struct OrdersEverything;

#[async_trait]
impl Sabotage for OrdersEverything {
    async fn receive(
        &self,
        tap: &Tap,
        _max: usize,
        wait: std::time::Duration,
    ) -> Result<Vec<fanfare_core::delivery::Delivery>> {
        let held = tap
            .backend
            .admin()
            .get(&tap.subscription)
            .await?
            .counts
            .in_flight;
        if held > 0 {
            fanfare_core::clock::Clock::system().sleep(wait).await;
            return Ok(Vec::new());
        }
        tap.real.receive(1, wait).await
    }
}

#[derive(Debug, Default)]
struct NeverParks;

#[async_trait]
impl Sabotage for NeverParks {
    async fn put(&self, real: &dyn Backend, spec: &SubscriptionSpec) -> Result<Put> {
        put_other(real, spec, |spec| spec.on_dead = OnDead::Continue).await
    }
}

#[derive(Debug, Default)]
struct ParksAlways;

#[async_trait]
impl Sabotage for ParksAlways {
    async fn put(&self, real: &dyn Backend, spec: &SubscriptionSpec) -> Result<Put> {
        put_other(real, spec, |spec| spec.on_dead = OnDead::Park).await
    }
}

/// Answers a discard without making it, so that the key stays parked.
#[derive(Debug, Default)]
struct ParksForEver;

#[async_trait]
impl Sabotage for ParksForEver {
    async fn discard(
        &self,
        real: &dyn Backend,
        selection: &fanfare_core::dead_letter::Selection,
    ) -> Result<fanfare_core::dead_letter::Acted> {
        let matched = real.dead_letters().count(selection).await?;
        Ok(fanfare_core::dead_letter::Acted {
            matched,
            done: matched,
        })
    }
}
