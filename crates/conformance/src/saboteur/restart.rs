//! Saboteurs that forget something when the stream is closed and opened again.

use async_trait::async_trait;
use fanfare_core::admin::SeekTo;
use fanfare_core::backend::{Backend, Published};
use fanfare_core::consumer::{Member, MemberKind};
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::error::Result;
use fanfare_core::event::Event;
use fanfare_core::id::EventId;
use fanfare_core::position::Position;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::sabotage::{Sabotage, Tap};
use super::saboteurs;

saboteurs! {
    LosesTheTail: 1, "loses the newest event when it is closed" => [
        "restart::acknowledged_events_outlive_a_restart",
    ];
    ForgetsSettlements: 1, "forgets every settlement when it is closed" => [
        "restart::settlements_outlive_a_restart",
    ];
    ForgetsSubscriptionOptions: 1, "forgets what is paused when it is closed" => [
        "restart::subscriptions_outlive_a_restart",
    ];
    ForgetsTheDead: 1, "forgets the dead letters when it is closed" => [
        "restart::dead_letters_outlive_a_restart",
    ];
    ForgetsState: 1, "forgets the shared values when it is closed" => [
        "restart::state_outlives_a_restart",
    ];
    EndsLeasesOutside: 1, "ends the leases of external members when it is closed" => [
        "external::external_leases_outlive_a_restart",
    ];
    RestartsPositions: 1, "counts positions from the start when opened" => [
        "restart::positions_go_on_after_a_restart",
    ];
    ForgetsIdentities: 2, "forgets which events it knows when it is closed" => [
        "restart::duplicates_are_known_after_a_restart",
    ];
    TakesOldReceipts: 8, "takes receipts from before a restart" => [
        "restart::receipts_from_before_a_restart_are_refused",
    ];
    ForgetsDelays: 10, "brings every retry back when it is opened" => [
        "restart::waiting_retries_outlive_a_restart",
    ];
    ChargesAClose: 20, "counts an attempt for what was leased when it was closed" => [
        "restart::what_was_leased_comes_back_at_once_after_a_close",
    ];
}

#[derive(Debug, Default)]
struct LosesTheTail {
    tail: Mutex<Option<Position>>,
    lost: AtomicBool,
}

#[async_trait]
impl Sabotage for LosesTheTail {
    async fn closing(&self, real: &dyn Backend) -> Result<()> {
        *self.tail.lock() = Some(real.history()?.head().await?);
        self.lost.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let came = tap.real.receive(max, wait).await?;
        let tail = self
            .tail
            .lock()
            .filter(|_| self.lost.load(Ordering::Relaxed));
        let (lost, kept): (Vec<_>, Vec<_>) =
            came.into_iter().partition(|d| Some(d.position) == tail);
        let lost = lost.into_iter().map(|d| (d.receipt, Settlement::Ack));
        tap.real.settle(lost.collect()).await?;
        Ok(kept)
    }
}

#[derive(Debug, Default)]
struct ForgetsSettlements;

#[async_trait]
impl Sabotage for ForgetsSettlements {
    async fn closing(&self, real: &dyn Backend) -> Result<()> {
        for info in real.admin().list().await? {
            real.admin()
                .seek(&info.spec.name, &SeekTo::Earliest, false)
                .await?;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct ForgetsSubscriptionOptions;

#[async_trait]
impl Sabotage for ForgetsSubscriptionOptions {
    async fn closing(&self, real: &dyn Backend) -> Result<()> {
        for info in real.admin().list().await? {
            real.admin().set_paused(&info.spec.name, false).await?;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct ForgetsTheDead;

#[async_trait]
impl Sabotage for ForgetsTheDead {
    async fn closing(&self, real: &dyn Backend) -> Result<()> {
        let all = crate::stage::every_letter();
        real.dead_letters().discard(&all).await.map(|_| ())
    }
}

#[derive(Debug, Default)]
struct ForgetsState;

#[async_trait]
impl Sabotage for ForgetsState {
    async fn closing(&self, real: &dyn Backend) -> Result<()> {
        for key in ["counter", "text"] {
            real.state().delete(key).await?;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct EndsLeasesOutside;

impl Sabotage for EndsLeasesOutside {
    fn member(&self, mut member: Member) -> Member {
        member.kind = MemberKind::Embedded;
        member
    }
}

#[derive(Debug, Default)]
struct RestartsPositions(Mutex<Position>);

#[async_trait]
impl Sabotage for RestartsPositions {
    async fn closing(&self, real: &dyn Backend) -> Result<()> {
        *self.0.lock() = real.history()?.head().await?;
        Ok(())
    }

    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        let mut answers = real.publish(events).await?;
        let before = self.0.lock().0;
        for published in answers.iter_mut().flatten() {
            published.position = published
                .position
                .map(|p| Position(p.0.saturating_sub(before)));
        }
        Ok(answers)
    }
}

#[derive(Debug, Default)]
struct ForgetsIdentities(AtomicBool);

#[async_trait]
impl Sabotage for ForgetsIdentities {
    async fn closing(&self, _: &dyn Backend) -> Result<()> {
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        if !self.0.load(Ordering::Relaxed) {
            return real.publish(events).await;
        }
        let fresh = |event: &Event| event.to_builder().id(EventId::generate()).build();
        let renamed = events.iter().map(fresh).collect::<Result<Vec<_>>>()?;
        real.publish(&renamed).await
    }
}

#[derive(Debug, Default)]
struct TakesOldReceipts;

#[async_trait]
impl Sabotage for TakesOldReceipts {
    async fn settle(
        &self,
        tap: &Tap,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        let answers = tap.real.settle(settlements).await?;
        Ok(answers.iter().map(|_| Settled::Done).collect())
    }
}

/// Takes every delay for none, as if the due times were not kept.
#[derive(Debug, Default)]
struct ForgetsDelays;

#[async_trait]
impl Sabotage for ForgetsDelays {
    async fn settle(
        &self,
        tap: &Tap,
        mut settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        for (_, with) in &mut settlements {
            if let Settlement::Retry { after, .. } = with {
                *after = Duration::ZERO;
            }
        }
        tap.real.settle(settlements).await
    }
}

#[derive(Debug, Default)]
struct ChargesAClose(AtomicBool);

#[async_trait]
impl Sabotage for ChargesAClose {
    async fn closing(&self, _: &dyn Backend) -> Result<()> {
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let mut came = tap.real.receive(max, wait).await?;
        for delivery in &mut came {
            delivery.attempt += u32::from(self.0.load(Ordering::Relaxed));
        }
        Ok(came)
    }
}
