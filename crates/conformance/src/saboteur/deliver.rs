//! Saboteurs of delivering.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::admin::Put;
use fanfare_core::backend::Backend;
use fanfare_core::clock::Clock;
use fanfare_core::data::{Data, DataKind};
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::error::Result;
use fanfare_core::event::{Event, EventBuilder};
use fanfare_core::id::EventId;
use fanfare_core::pattern::{Pattern, PatternSet};
use fanfare_core::position::Position;
use fanfare_core::subscription::{SubscriptionName, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;
use parking_lot::Mutex;

use super::sabotage::{Sabotage, Tap};
use super::saboteurs;

saboteurs! {
    DeliversToEverybody: 7, "delivers events to subscriptions that do not match" => [
        "pattern::each_pattern_receives_exactly_what_it_matches",
        "pattern::a_subscription_that_matches_nothing_receives_nothing",
    ];
    ReadsOnePatternOnly: 7, "ignores all patterns of a set but one" => [
        "publish::an_acknowledged_event_reaches_every_subscription",
        "subscription::creating_it_again_changes_nothing",
    ];
    DeliversOncePerPattern: 7, "delivers an event once for each pattern that it matches" => [
        "pattern::an_event_that_matches_two_patterns_comes_once",
    ];
    SharesOneQueue: 7, "gives each event to one subscription alone" => [
        "publish::an_acknowledged_event_reaches_every_subscription",
        "deliver::subscriptions_do_not_touch_each_other",
        "deliver::a_stuck_member_stops_no_other_subscription",
    ];
    ReserialisesData: 7, "parses JSON data and writes them anew" => [
        "deliver::data_bytes_are_untouched",
    ];
    LowercasesIds: 7, "writes ids in lower case" => [
        "deliver::ids_of_every_kind_come_back_unchanged",
    ];
    RoundsTimes: 7, "keeps times to the millisecond" => [
        "deliver::every_attribute_and_extension_comes_back",
    ];
    ShufflesDeliveries: 7, "hands out what it claimed backwards" => [
        "deliver::unordered_deliveries_come_in_publish_order_at_first",
    ];
    StrandsDroppedReceives: 7, "loses what it claimed for a receive that is dropped" => [
        "deliver::a_receive_that_is_dropped_strands_nothing",
        "crash::a_dropped_receive_neither_strands_nor_charges_a_suspect",
    ];
    WakesNobody: 7, "looks for events only when a receive begins" => [
        "deliver::a_waiting_receive_is_woken_by_a_publish",
        "fleet::a_publish_wakes_a_member_of_another_process",
    ];
    IgnoresMax: 13, "answers more deliveries than asked for" => [
        "deliver::a_receive_answers_no_more_than_asked",
        "handle::a_handler_holds_no_more_than_its_prefetch",
    ];
    WaitsForTheSlowest: 13, "gives nobody anything while one member is behind" => [
        "deliver::a_stuck_member_stops_no_other_subscription",
    ];
    WaitsForEver: 13, "does not end an empty receive" => [
        "deliver::an_empty_receive_ends_after_its_wait",
    ];
}

#[derive(Debug, Default)]
struct DeliversToEverybody;

#[async_trait]
impl Sabotage for DeliversToEverybody {
    async fn put(&self, real: &dyn Backend, spec: &SubscriptionSpec) -> Result<Put> {
        let mut all = spec.clone();
        all.patterns = Pattern::everything().into();
        real.admin().put(&all).await
    }
}

#[derive(Debug, Default)]
struct ReadsOnePatternOnly;

#[async_trait]
impl Sabotage for ReadsOnePatternOnly {
    async fn put(&self, real: &dyn Backend, spec: &SubscriptionSpec) -> Result<Put> {
        let mut one = spec.clone();
        one.patterns = PatternSet::new(spec.patterns.iter().last().cloned())?;
        real.admin().put(&one).await
    }
}

/// Hands the same delivery out again for every further pattern that matches.
#[derive(Debug, Default)]
struct DeliversOncePerPattern;

#[async_trait]
impl Sabotage for DeliversOncePerPattern {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let patterns = tap
            .backend
            .admin()
            .get(&tap.subscription)
            .await?
            .spec
            .patterns;
        let matching = |delivery: &Delivery| {
            let matches = |p: &&Pattern| p.matches(delivery.event.event_type());
            patterns.iter().filter(matches).count()
        };
        let came = tap.real.receive(max, wait).await?;
        let copies = came.iter().flat_map(|d| vec![d.clone(); matching(d)]);
        Ok(copies.take(max).collect())
    }
}

#[derive(Debug, Default)]
struct SharesOneQueue(Mutex<BTreeMap<Position, SubscriptionName>>);

#[async_trait]
impl Sabotage for SharesOneQueue {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let came = tap.real.receive(max, wait).await?;
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for delivery in came {
            let mut owners = self.0.lock();
            let owner = owners
                .entry(delivery.position)
                .or_insert_with(|| tap.subscription.clone());
            if *owner == tap.subscription {
                own.push(delivery);
            } else {
                others.push((delivery.receipt, Settlement::Ack));
            }
        }
        tap.real.settle(others).await?;
        Ok(own)
    }
}

fn rebuild(
    mut deliveries: Vec<Delivery>,
    edit: impl Fn(&Event) -> Option<EventBuilder>,
) -> Result<Vec<Delivery>> {
    for delivery in &mut deliveries {
        if let Some(edited) = edit(&delivery.event) {
            delivery.event = edited.build()?;
        }
    }
    Ok(deliveries)
}

#[derive(Debug, Default)]
struct ReserialisesData;

#[async_trait]
impl Sabotage for ReserialisesData {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        rebuild(tap.real.receive(max, wait).await?, |event| {
            let json = event.data().filter(|data| data.kind() == DataKind::Json)?;
            let value: serde_json::Value = serde_json::from_slice(json.bytes()).ok()?;
            Some(event.to_builder().data(Data::json(value.to_string())))
        })
    }
}

#[derive(Debug, Default)]
struct LowercasesIds;

#[async_trait]
impl Sabotage for LowercasesIds {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        rebuild(tap.real.receive(max, wait).await?, |event| {
            let id = EventId::parse(&event.id().to_string().to_lowercase()).ok()?;
            Some(event.to_builder().id(id))
        })
    }
}

#[derive(Debug, Default)]
struct RoundsTimes;

#[async_trait]
impl Sabotage for RoundsTimes {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        rebuild(tap.real.receive(max, wait).await?, |event| {
            let time = Timestamp::from_millis(event.time()?.as_millis());
            Some(event.to_builder().time(time))
        })
    }
}

#[derive(Debug, Default)]
struct ShufflesDeliveries;

#[async_trait]
impl Sabotage for ShufflesDeliveries {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let mut came = tap.real.receive(max, wait).await?;
        came.reverse();
        Ok(came)
    }
}

#[derive(Debug, Default)]
struct StrandsDroppedReceives;

#[async_trait]
impl Sabotage for StrandsDroppedReceives {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let real = tap.real.clone();
        // The claim goes on when its caller is gone.
        let claim = tokio::spawn(async move { real.receive(max, wait).await });
        // Whoever polls once must not find it done by then.
        tokio::task::yield_now().await;
        claim.await.unwrap_or_else(|_| Ok(Vec::new()))
    }
}

#[derive(Debug, Default)]
struct WakesNobody;

#[async_trait]
impl Sabotage for WakesNobody {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let came = tap.real.receive(max, Duration::ZERO).await?;
        if came.is_empty() {
            Clock::system().sleep(wait).await;
        }
        Ok(came)
    }
}

#[derive(Debug, Default)]
struct IgnoresMax;

#[async_trait]
impl Sabotage for IgnoresMax {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        tap.real.receive(max * 2, wait).await
    }
}

#[derive(Debug, Default)]
struct WaitsForTheSlowest(Mutex<BTreeMap<SubscriptionName, BTreeSet<Receipt>>>);

#[async_trait]
impl Sabotage for WaitsForTheSlowest {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let behind = |(name, held): (&SubscriptionName, &BTreeSet<Receipt>)| {
            *name != tap.subscription && held.len() > 500
        };
        let stuck = self.0.lock().iter().any(behind);
        if stuck {
            Clock::system().sleep(wait).await;
            return Ok(Vec::new());
        }
        let came = tap.real.receive(max, wait).await?;
        let receipts = came.iter().map(|delivery| delivery.receipt);
        self.0
            .lock()
            .entry(tap.subscription.clone())
            .or_default()
            .extend(receipts);
        Ok(came)
    }

    async fn settle(
        &self,
        tap: &Tap,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        if let Some(held) = self.0.lock().get_mut(&tap.subscription) {
            held.retain(|receipt| !settlements.iter().any(|(settled, _)| settled == receipt));
        }
        tap.real.settle(settlements).await
    }
}

#[derive(Debug, Default)]
struct WaitsForEver;

#[async_trait]
impl Sabotage for WaitsForEver {
    async fn receive(&self, tap: &Tap, max: usize, _wait: Duration) -> Result<Vec<Delivery>> {
        tap.real.receive(max, Duration::from_hours(1)).await
    }
}
