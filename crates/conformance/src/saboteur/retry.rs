//! Saboteurs of retries.

use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::clock::Clock;
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::error::Result;
use fanfare_core::timestamp::Timestamp;
use parking_lot::Mutex;

use super::sabotage::{Sabotage, Tap};
use super::saboteurs;
use super::settle::instead;

saboteurs! {
    RetriesEarly: 10, "brings retries back after half their delay" => [
        "retry::a_retry_comes_no_sooner_than_asked",
        "retry::many_delays_each_come_when_due",
        "handle::retries_wait_as_the_policy_says",
    ];
    RetriesLate: 10, "brings retries back a minute late" => [
        "retry::a_retry_comes_when_due",
        "retry::a_retry_wakes_a_waiting_member",
    ];
    ForgetsAttempts: 10, "calls every attempt the first" => [
        "retry::each_retry_counts_one_attempt",
        "handle::a_failing_handler_is_retried_and_then_given_up",
        "handle::a_panic_is_a_failure_and_stops_nothing",
        "handle::out_of_attempts_is_dropped_where_dead_letters_are_off",
    ];
    BlocksBehindRetries: 10, "gives out nothing while a retry waits" => [
        "retry::other_events_go_on_while_many_wait",
    ];
}

fn delayed(with: Settlement, delay: impl Fn(Duration) -> Duration) -> Settlement {
    match with {
        Settlement::Retry { after, error } => Settlement::Retry {
            after: delay(after),
            error,
        },
        other => other,
    }
}

#[derive(Debug, Default)]
struct RetriesEarly;

#[async_trait]
impl Sabotage for RetriesEarly {
    async fn settle(
        &self,
        tap: &Tap,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        instead(tap, settlements, |with| delayed(with, |after| after / 2)).await
    }
}

#[derive(Debug, Default)]
struct RetriesLate;

#[async_trait]
impl Sabotage for RetriesLate {
    async fn settle(
        &self,
        tap: &Tap,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        let late = Duration::from_mins(1);
        instead(tap, settlements, |with| delayed(with, |after| after + late)).await
    }
}

#[derive(Debug, Default)]
struct ForgetsAttempts;

#[async_trait]
impl Sabotage for ForgetsAttempts {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let mut came = tap.real.receive(max, wait).await?;
        for delivery in &mut came {
            delivery.attempt = 1;
        }
        Ok(came)
    }
}

#[derive(Debug, Default)]
struct BlocksBehindRetries(Mutex<Timestamp>);

#[async_trait]
impl Sabotage for BlocksBehindRetries {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let clock = Clock::system();
        let blocked = self.0.lock().since(clock.now());
        clock.sleep(blocked.min(wait)).await;
        if blocked > wait {
            return Ok(Vec::new());
        }
        tap.real.receive(max, wait.saturating_sub(blocked)).await
    }

    async fn settle(
        &self,
        tap: &Tap,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        for (_, with) in &settlements {
            if let Settlement::Retry { after, .. } = with {
                let mut until = self.0.lock();
                *until = (*until).max(Clock::system().now() + *after);
            }
        }
        tap.real.settle(settlements).await
    }
}
