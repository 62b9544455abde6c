//! A line that a memory backend only plays, and the saboteurs of whoever lives at its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::ErrorKind;
use fanfare_core::admin::{Health, Put};
use fanfare_core::backend::{Backend, Published};
use fanfare_core::clock::Clock;
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::error::{Error, Result};
use fanfare_core::event::Event;
use fanfare_core::subscription::SubscriptionSpec;
use tokio::sync::watch;

use super::sabotage::{Sabotage, Tap};
use super::saboteurs;
use crate::broker::Fault;
use crate::line::Line;

saboteurs! {
    SaysOkInAGap: 18, "acknowledges what it cannot publish" => [
        "gap::a_publish_fails_at_its_deadline",
        "gap::an_answer_lost_on_the_way_is_unknown",
        "gap::a_publish_waits_for_the_broker_to_come_back",
    ];
    NeverComesBack: 18, "stays away once it was away" => [
        "gap::a_publish_waits_for_the_broker_to_come_back",
        "gap::a_subscription_comes_back_by_itself_and_loses_nothing",
        "gap::the_health_tells_of_a_gap",
    ];
    ForgetsWhatItSettled: 18, "answers a settlement in a gap without making it" => [
        "gap::what_was_handled_in_a_gap_is_settled_after_it",
    ];
    FeelsFine: 18, "says that it is healthy without its broker" => [
        "gap::the_health_tells_of_a_gap",
    ];
    SkipsWhatItMissed: 18, "throws away what came during a gap" => [
        "gap::a_subscription_comes_back_by_itself_and_loses_nothing",
    ];
    ForgetsDeletions: 18, "goes on with nothing when its subscription is deleted" => [
        "gap::a_subscription_deleted_under_us_is_created_again",
    ];
}

/// How long a call waits for an answer that vanished.
const ANSWER: Duration = Duration::from_millis(300);

/// A line without a network: calls pass, or they fail as over a real one.
#[derive(Debug, Clone)]
pub(crate) struct PlayedLine {
    fault: Arc<watch::Sender<Fault>>,
    ended: Arc<watch::Sender<u64>>,
}

impl PlayedLine {
    pub(crate) fn new() -> Self {
        Self {
            fault: Arc::new(watch::Sender::new(Fault::None)),
            ended: Arc::new(watch::Sender::new(0)),
        }
    }

    async fn pass<T>(&self, lost: ErrorKind, call: impl Future<Output = Result<T>>) -> Result<T> {
        let clock = Clock::system();
        let fault = *self.fault.borrow();
        let mut ended = self.ended.subscribe();
        let failed = |kind| Err(Error::new(kind, "the line is broken"));
        match fault {
            Fault::Refuse => return failed(ErrorKind::Unavailable),
            Fault::Blackhole => {
                clock.sleep(ANSWER).await;
                return failed(lost);
            }
            Fault::BreakAfter(_) => {
                call.await?;
                return failed(lost);
            }
            Fault::Delay(by) => clock.sleep(by).await,
            Fault::None => {}
        }
        tokio::select! {
            answer = call => answer,
            _ = ended.changed() => failed(lost),
        }
    }
}

impl Line for PlayedLine {
    fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    fn end(&self, _: bool) {
        self.ended.send_modify(|times| *times += 1);
    }
}

#[async_trait]
impl Sabotage for PlayedLine {
    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        self.pass(ErrorKind::Unknown, real.publish(events)).await
    }

    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let received = tap.real.receive(max, wait);
        self.pass(ErrorKind::Unavailable, received).await
    }

    async fn settle(
        &self,
        tap: &Tap,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        let settled = tap.real.settle(settlements);
        self.pass(ErrorKind::Unknown, settled).await
    }

    async fn extend(
        &self,
        tap: &Tap,
        receipts: &[Receipt],
        lease: Duration,
    ) -> Result<Vec<Settled>> {
        let extended = tap.real.extend(receipts, lease);
        self.pass(ErrorKind::Unavailable, extended).await
    }

    async fn put(&self, real: &dyn Backend, spec: &SubscriptionSpec) -> Result<Put> {
        let put = real.admin().put(spec);
        self.pass(ErrorKind::Unavailable, put).await
    }

    async fn health(&self, real: &dyn Backend) -> Health {
        let health = async { Ok(real.admin().health().await) };
        let asked = self.pass(ErrorKind::Unavailable, health).await;
        asked.unwrap_or_else(|error| Health {
            ok: false,
            detail: error.to_string(),
        })
    }
}

fn is_gap(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Unknown)
}

#[derive(Debug, Default)]
struct SaysOkInAGap;

#[async_trait]
impl Sabotage for SaysOkInAGap {
    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        let kept = || {
            Ok(Published {
                position: None,
                duplicate: false,
            })
        };
        match real.publish(events).await {
            Err(error) if is_gap(&error) => Ok(events.iter().map(|_| kept()).collect()),
            answers => answers,
        }
    }
}

#[derive(Debug, Default)]
struct NeverComesBack(AtomicBool);

impl NeverComesBack {
    fn look<T>(&self, answer: Result<T>) -> Result<T> {
        if answer.as_ref().err().is_some_and(is_gap) {
            self.0.store(true, Ordering::Relaxed);
        }
        if self.0.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Unavailable, "it was away once"));
        }
        answer
    }
}

#[async_trait]
impl Sabotage for NeverComesBack {
    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        self.look(real.publish(events).await)
    }

    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        self.look(tap.real.receive(max, wait).await)
    }
}

#[derive(Debug, Default)]
struct ForgetsWhatItSettled;

#[async_trait]
impl Sabotage for ForgetsWhatItSettled {
    async fn settle(
        &self,
        tap: &Tap,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        let done = vec![Settled::Done; settlements.len()];
        match tap.real.settle(settlements).await {
            Err(error) if is_gap(&error) => Ok(done),
            answers => answers,
        }
    }
}

#[derive(Debug, Default)]
struct FeelsFine;

#[async_trait]
impl Sabotage for FeelsFine {
    async fn health(&self, _: &dyn Backend) -> Health {
        Health {
            ok: true,
            detail: "never better".into(),
        }
    }

    /// The bus would notice by itself.
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        match tap.real.receive(max, wait).await {
            Err(error) if is_gap(&error) => Ok(Vec::new()),
            received => received,
        }
    }
}

#[derive(Debug, Default)]
struct SkipsWhatItMissed(AtomicBool);

#[async_trait]
impl Sabotage for SkipsWhatItMissed {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let received = tap.real.receive(max, wait).await;
        if received.as_ref().err().is_some_and(is_gap) {
            self.0.store(true, Ordering::Relaxed);
            return received;
        }
        let came = received?;
        if came.is_empty() || !self.0.swap(false, Ordering::Relaxed) {
            return Ok(came);
        }
        let all = came.iter().map(|d| (d.receipt, Settlement::Drop));
        tap.real.settle(all.collect()).await?;
        Ok(Vec::new())
    }
}

#[derive(Debug, Default)]
struct ForgetsDeletions;

#[async_trait]
impl Sabotage for ForgetsDeletions {
    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let clock = Clock::system();
        match tap.real.receive(max, wait).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                clock.sleep(wait).await;
                Ok(Vec::new())
            }
            received => received,
        }
    }
}
