//! One member of a subscription: receive, settle, extend, close.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::subscription::SubscriptionName;
use tokio::sync::{Mutex, Notify, oneshot, watch};

use crate::ahead::Ahead;
use crate::engine::Engine;
use crate::seat::Seat;
use crate::settle::{extend, settle};
use crate::source::{Claimed, Source, Turn};

/// The most deliveries of one claim.
const CLAIM: usize = 1_000;
/// How often a waiting member asks, in case a wake-up was lost with a connection.
const POLL: Duration = Duration::from_secs(5);

/// One member.
pub struct FleetConsumer<E: Engine> {
    seat: Arc<Seat<E>>,
    source: Arc<dyn Source>,
    /// Held by the claim that is on its way.
    turns: Arc<Mutex<()>>,
    woken: Arc<Notify>,
}

impl<E: Engine> FleetConsumer<E> {
    /// Joins a subscription that exists, and reads the log ahead.
    pub async fn join(
        engine: Arc<E>,
        name: &SubscriptionName,
        member: &Member,
        closed: watch::Receiver<bool>,
    ) -> Result<Self> {
        let seat = Seat::take(engine, name, member, closed).await?;
        let source = Arc::new(Ahead::new(seat.clone()));
        Ok(Self::fed_by(source, seat))
    }

    /// A member whose new deliveries come from elsewhere.
    pub fn fed_by(source: Arc<dyn Source>, seat: Arc<Seat<E>>) -> Self {
        let woken = seat.engine().woken(seat.name());
        Self {
            seat,
            source,
            turns: Arc::default(),
            woken,
        }
    }

    /// Where its handlers run.
    pub fn kind(&self) -> MemberKind {
        self.seat.kind()
    }

    /// Gives back what this member holds.
    pub async fn release(&self) -> Result<()> {
        let _turn = self.turns.lock().await;
        self.source.leave().await?;
        self.seat.leave().await
    }

    /// On a task of its own: a claim that was sent is kept, even if nobody waits for it, and a receive
    /// that nobody polls holds up no other. What nobody waits for any more when its turn comes is never
    /// sent: or the next receive would stand behind everything that was given up before it.
    async fn claim(&self, turn: Turn) -> Result<Claimed> {
        let (source, turns) = (self.source.clone(), self.turns.clone());
        let (mut answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            let _ours = tokio::select! {
                biased;
                () = answer.closed() => return,
                ours = turns.lock() => ours,
            };
            // Nobody may be there to hear it.
            let _ = answer.send(source.claim(turn).await);
        });
        let claimed = answered.await;
        claimed.map_err(|e| Error::new(ErrorKind::Internal, "a claim did not end").because(e))?
    }
}

#[async_trait]
impl<E: Engine> Consumer for FleetConsumer<E> {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let seat = &self.seat;
        let clock = seat.engine().clock();
        let deadline = clock.now() + wait;
        let mut changed = self.source.changed();
        let mut closed = seat.closed();
        let mut turn = Turn {
            max: max.min(CLAIM),
            ask: true,
            until: Some(deadline),
        };
        loop {
            seat.check_open()?;
            changed.mark_unchanged();
            let woken = self.woken.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let taken = seat.take_ready(max).await?;
            if !taken.is_empty() || max == 0 {
                return Ok(taken);
            }
            let next = match self.claim(turn).await? {
                Claimed::More => continue,
                Claimed::Nothing(next) => next.unwrap_or(POLL).min(POLL),
            };
            let now = clock.now();
            if now >= deadline {
                if turn.until.take().is_some() && self.source.comes(&mut changed).await {
                    continue;
                }
                return Ok(Vec::new());
            }
            let pause = next.min(deadline.since(now));
            tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => {}
                () = woken => turn.ask = true,
                _ = changed.changed() => turn.ask = false,
                () = clock.sleep(pause) => turn.ask = true,
            }
        }
    }

    async fn settle(&self, settlements: Vec<(Receipt, Settlement)>) -> Result<Vec<Settled>> {
        self.seat.check_open()?;
        settle(self.seat.engine(), &self.seat.stored(), settlements).await
    }

    async fn extend(&self, receipts: &[Receipt], lease: Duration) -> Result<Vec<Settled>> {
        self.seat.check_open()?;
        extend(self.seat.engine(), &self.seat.stored(), receipts, lease).await
    }

    async fn close(&self) -> Result<()> {
        self.seat.check_open()?;
        self.release().await
    }
}

impl<E: Engine> fmt::Debug for FleetConsumer<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetConsumer")
            .field("subscription", self.seat.name())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
