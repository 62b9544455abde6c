//! Saboteurs of closing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::ErrorKind;
use fanfare_core::backend::Backend;
use fanfare_core::clock::Clock;
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::error::Result;

use super::sabotage::{Sabotage, Tap};
use super::saboteurs;

saboteurs! {
    KeepsItsLeases: 20, "leaves without giving its deliveries back" => [
        "lease::a_closed_member_gives_its_deliveries_back_at_once",
    ];
    KeepsWhatIsReleased: 20, "keeps a released delivery leased" => [
        "drain::what_runs_is_finished_and_the_rest_released",
        "drain::what_does_not_end_is_cut_off_and_given_back",
    ];
    FailsTheSecondClose: 20, "fails when closed again" => [
        "shutdown::closing_twice_is_fine",
    ];
    NeverCloses: 20, "waits for ever when closed" => [
        "shutdown::closing_at_once_with_other_calls_ends",
    ];
    GoesOnAfterClose: 20, "goes on working after it was closed" => [
        "shutdown::every_call_after_close_says_closed",
    ];
    LeavesWaiters: 20, "lets a receive wait on when it is closed" => [
        "shutdown::closing_ends_what_waits",
    ];
}

#[derive(Debug, Default)]
struct KeepsItsLeases;

#[async_trait]
impl Sabotage for KeepsItsLeases {
    async fn leave(&self, _: &Tap) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug, Default)]
struct KeepsWhatIsReleased;

#[async_trait]
impl Sabotage for KeepsWhatIsReleased {
    async fn settle(
        &self,
        tap: &Tap,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        let answers = vec![Settled::Done; settlements.len()];
        let others = settlements
            .into_iter()
            .filter(|(_, with)| *with != Settlement::Release);
        tap.real.settle(others.collect()).await?;
        Ok(answers)
    }

    async fn leave(&self, _: &Tap) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug, Default)]
struct GoesOnAfterClose;

#[async_trait]
impl Sabotage for GoesOnAfterClose {
    async fn close(&self, _: &dyn Backend) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug, Default)]
struct FailsTheSecondClose(AtomicBool);

#[async_trait]
impl Sabotage for FailsTheSecondClose {
    async fn close(&self, real: &dyn Backend) -> Result<()> {
        if self.0.swap(true, Ordering::Relaxed) {
            return Err(fanfare_core::Error::new(
                ErrorKind::Closed,
                "closed already",
            ));
        }
        real.close().await
    }
}

#[derive(Debug, Default)]
struct NeverCloses;

#[async_trait]
impl Sabotage for NeverCloses {
    async fn close(&self, _: &dyn Backend) -> Result<()> {
        std::future::pending().await
    }
}

#[derive(Debug, Default)]
struct LeavesWaiters;

#[async_trait]
impl Sabotage for LeavesWaiters {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let clock = Clock::system();
        let until = clock.now() + wait;
        let came = tap.real.receive(max, wait).await;
        let closed = |error: &fanfare_core::Error| error.kind() == ErrorKind::Closed;
        if came.as_ref().map_or_else(closed, Vec::is_empty) {
            clock.sleep_until(until).await;
        }
        came
    }
}
