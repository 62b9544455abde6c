//! One member: it asks the hub of its subscription.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::MemberId;

use crate::hub::Hub;
use crate::subscription::unknown;

/// What is due and cannot be given out is looked at again no sooner.
const LOOK: Duration = Duration::from_millis(20);
/// How long what the broker must be told first keeps who waits for less.
const GRACE: Duration = Duration::from_secs(2);

pub(crate) struct AmqpConsumer {
    hub: Arc<Hub>,
    member: MemberId,
    kind: MemberKind,
    ephemeral: bool,
    closed: AtomicBool,
}

impl AmqpConsumer {
    pub(crate) fn new(hub: Arc<Hub>, member: &Member, id: u64, ephemeral: bool) -> Self {
        Self {
            hub,
            member: MemberId(id),
            kind: member.kind,
            ephemeral,
            closed: AtomicBool::new(false),
        }
    }

    fn wants_alone(&self) -> bool {
        let now = self.hub.stream.now();
        let mut desk = self.hub.desk.lock();
        desk.wants_alone(self.member, self.kind, now)
    }

    fn check(&self) -> Result<()> {
        self.hub.stream.line.check_open()?;
        if self.hub.desk.lock().gone {
            return Err(unknown(&self.hub.name));
        }
        Ok(())
    }

    /// What there is until then. What must be told the broker first goes on in tasks of its own, as long as
    /// that takes: who asked may go away meanwhile.
    async fn find(&self, max: usize, deadline: Timestamp) -> Result<Vec<Delivery>> {
        let clock = &self.hub.stream.line.config.clock;
        loop {
            let woken = self.hub.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            self.check()?;
            let alone_waits = self.hub.alone_waits();
            if alone_waits && self.wants_alone() {
                self.hub.fetch_alone().await;
            }
            if self.hub.ordered {
                self.hub.note_next((self.member, self.kind)).await;
            }
            let (found, change, exhausted) = {
                let mut desk = self.hub.desk.lock();
                let who = (self.member, self.kind);
                let (found, change) = desk.look(who, max, alone_waits, clock.now());
                (found, change, desk.exhausted())
            };
            if !exhausted.is_empty() {
                let hub = self.hub.clone();
                let burying = tokio::spawn(async move { hub.bury(exhausted).await });
                if found.is_empty() {
                    let _ = burying.await;
                    continue;
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
            self.hub.ask_for_more();
            if clock.now() >= deadline {
                return Ok(found);
            }
            // What is due already and is not given out, as without a line, stays so for a while.
            let soonest = clock.now() + LOOK;
            let until = change.map_or(deadline, |change| change.max(soonest).min(deadline));
            tokio::select! {
                () = woken => {}
                () = clock.sleep_until(until) => {}
                () = self.hub.stream.line.until_closed() => {}
            }
        }
    }
}

#[async_trait]
impl Consumer for AmqpConsumer {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let clock = &self.hub.stream.line.config.clock;
        let now = clock.now();
        tokio::select! {
            found = self.find(max, now + wait) => found,
            () = clock.sleep_until(now + wait.max(GRACE)) => Ok(Vec::new()),
        }
    }

    async fn settle(&self, settlements: Vec<(Receipt, Settlement)>) -> Result<Vec<Settled>> {
        self.check()?;
        self.hub.settle(settlements).await
    }

    async fn extend(&self, receipts: &[Receipt], lease: Duration) -> Result<Vec<Settled>> {
        self.check()?;
        let now = self.hub.stream.line.config.clock.now();
        Ok(self.hub.desk.lock().extend(receipts, now + lease, now))
    }

    async fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.hub.desk.lock().release(self.member);
        self.hub.wake.notify_waiters();
        if self.ephemeral {
            self.hub.stream.end_ephemeral(&self.hub.name).await;
            return Ok(());
        }
        // In a task of its own: who closes may go away meanwhile.
        let hub = self.hub.clone();
        let leaving = tokio::spawn(async move {
            if let Err(error) = hub.stream.leave(&hub).await {
                tracing::debug!(subscription = %hub.name, %error, "counts not kept");
            }
        });
        let lost = |e| Error::new(ErrorKind::Internal, "leaving broke off").because(e);
        leaving.await.map_err(lost)
    }
}
