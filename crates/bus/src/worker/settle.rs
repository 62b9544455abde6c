//! The settle loop: what finishes while one settlement is under way is settled together by the
//! next. An idle subscription settles at once, a busy one in batches, without a timer.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fanfare_core::delivery::{Receipt, Settled, Settlement};
use fanfare_core::error::{Error, ErrorKind, Result, Status};
use futures::future::{Either, select};

use super::{Core, Finished, Stage, heartbeat};
use crate::retry::Backoff;
use crate::telemetry::Tally;

/// How long the backend may take, once the subscription is cut off, for the last settlements and
/// for closing.
const LAST_WAIT: Duration = Duration::from_secs(2);

pub(super) async fn run(core: Arc<Core>) {
    {
        let beating = pin!(heartbeat::run(&core));
        let settling = pin!(settle_until_idle(&core));
        select(settling, beating).await;
    }
    let consumer = core.consumer();
    let closing = pin!(consumer.close());
    let timeout = pin!(core.last_wait());
    match select(closing, timeout).await {
        Either::Left((Ok(()), _)) => {}
        Either::Left((Err(error), _)) => {
            tracing::warn!(subscription = %core.spec.name, %error, "consumer did not close");
        }
        Either::Right(_) => {
            tracing::warn!(subscription = %core.spec.name, "consumer did not close in time");
        }
    }
    let held = core.held.lock().leases.drain().count();
    core.consuming
        .held
        .sub(u64::try_from(held).unwrap_or(u64::MAX));
    core.advance(Stage::Ended);
}

/// Settles until nothing more can be finished.
async fn settle_until_idle(core: &Core) {
    loop {
        // Read before the batch is taken: what the last task finished is then in it.
        let last = core.busy.load(Ordering::Acquire) == 0;
        let batch = std::mem::take(&mut *core.done.lock());
        if !batch.is_empty() {
            core.settle_all(batch).await;
            core.room.notify_one();
        } else if last {
            return;
        } else {
            core.settle.notified().await;
        }
    }
}

impl Core {
    async fn settle_all(&self, finished: Vec<Finished>) {
        let finished = self.without_lost(finished);
        if finished.is_empty() {
            return;
        }
        match self.settle_until_known(&finished).await {
            Ok(answers) => {
                self.forget(&finished);
                self.count(finished, &answers);
                self.counted.notify_waiters();
            }
            Err(error) => {
                self.forget(&finished);
                let n = u64::try_from(finished.len()).unwrap_or(u64::MAX);
                self.unsettled.fetch_add(n, Ordering::Relaxed);
                tracing::error!(
                    subscription = %self.spec.name,
                    settlements = n,
                    %error,
                    "could not settle; the deliveries come back"
                );
            }
        }
    }

    /// Tries until the backend answers, or the subscription is cut off. Repeating is safe: what
    /// counted before is answered as settled already.
    async fn settle_until_known(&self, finished: &[Finished]) -> Result<Vec<Settled>> {
        let mut backoff = Backoff::new(self.limits.reconnect_max);
        let mut repeated = false;
        loop {
            let settlements = finished
                .iter()
                .map(|f| (f.receipt, f.settlement.clone()))
                .collect();
            let error = match self.settle_once(settlements).await {
                Ok(answers) if repeated => return Ok(answers.into_iter().map(repeat).collect()),
                Ok(answers) => return Ok(answers),
                Err(error) => error,
            };
            self.consuming.errors.add(1);
            if error.status() == Status::Permanent || *self.stage.borrow() >= Stage::Cut {
                return Err(error);
            }
            repeated = true;
            let pause = pin!(self.clock.sleep(backoff.next()));
            let cut = pin!(self.reached(Stage::Cut));
            if let Either::Right(_) = select(pause, cut).await {
                return Err(error);
            }
        }
    }

    /// One call of the backend; it may hang only while the subscription runs.
    async fn settle_once(&self, settlements: Vec<(Receipt, Settlement)>) -> Result<Vec<Settled>> {
        let consumer = self.consumer();
        let settling = pin!(consumer.settle(settlements));
        let timeout = pin!(self.last_wait());
        match select(settling, timeout).await {
            Either::Left((answers, _)) => answers,
            Either::Right(_) => Err(Error::new(ErrorKind::Unknown, "no answer").during("settle")),
        }
    }

    /// Completes some time after the subscription was cut off.
    async fn last_wait(&self) {
        self.reached(Stage::Cut).await;
        self.clock.sleep(LAST_WAIT).await;
    }

    fn count(&self, finished: Vec<Finished>, answers: &[Settled]) {
        let mut tally = Tally::new(&self.telemetry, &self.consuming);
        for (finished, answer) in finished.into_iter().zip(answers) {
            if *answer != Settled::Done {
                self.refused(&finished, *answer);
                continue;
            }
            let Finished {
                event,
                attempt,
                settlement,
                took,
                ..
            } = finished;
            self.waiters
                .settled(&self.spec.name, &event, &settlement, attempt);
            tally.add(event, &settlement, took);
        }
    }

    fn refused(&self, finished: &Finished, answer: Settled) {
        self.consuming.refused.add(1);
        tracing::warn!(
            subscription = %self.spec.name,
            id = %finished.event.id(),
            attempt = finished.attempt,
            ?answer,
            "settlement refused"
        );
    }

    /// Leaves out deliveries that somebody else may own now, whatever our handler made of them.
    fn without_lost(&self, finished: Vec<Finished>) -> Vec<Finished> {
        if !self.any_lost.load(Ordering::Acquire) {
            return finished;
        }
        let (lost, kept): (Vec<_>, Vec<_>) = finished
            .into_iter()
            .partition(|finished| self.is_lost(&finished.receipt));
        self.forget(&lost);
        // One that never started has nothing to refuse.
        for finished in lost.iter().filter(|f| f.took.is_some()) {
            self.refused(finished, Settled::Late);
        }
        kept
    }

    fn forget(&self, finished: &[Finished]) {
        let mut held = self.held.lock();
        let mut n = 0;
        for Finished { receipt, event, .. } in finished {
            if held.leases.remove(receipt) {
                n += 1;
                held.bytes = held.bytes.saturating_sub(event.bytes().len());
            }
            held.lost.remove(receipt);
        }
        if held.lost.is_empty() {
            self.any_lost.store(false, Ordering::Release);
        }
        drop(held);
        self.consuming.held.sub(n);
    }
}

/// A settlement that was sent again and is settled already was most likely our own.
fn repeat(answer: Settled) -> Settled {
    match answer {
        Settled::Already => Settled::Done,
        other => other,
    }
}
