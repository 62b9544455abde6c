//! Saboteurs of closing.

use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::ErrorKind;
use fanfare_core::clock::Clock;
use fanfare_core::delivery::Delivery;
use fanfare_core::error::Result;

use super::sabotage::{Sabotage, Tap};
use super::saboteurs;

saboteurs! {
    KeepsItsLeases: 20, "leaves without giving its deliveries back" => [
        "lease::a_closed_member_gives_its_deliveries_back_at_once",
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
struct GoesOnAfterClose;

impl Sabotage for GoesOnAfterClose {
    fn closes(&self) -> bool {
        false
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
