//! One member of a subscription of this process.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_cursor::MemberId;
use fanfare_cursor::queue::Look;

use super::stream::Stream;
use super::subscription::Subscription;
use super::{Subscriptions, dead_letters, unknown};

pub(super) struct PubSubConsumer {
    stream: Arc<Stream>,
    subscription: Arc<Subscription>,
    all: Weak<Subscriptions>,
    member: MemberId,
    kind: MemberKind,
}

impl PubSubConsumer {
    pub(super) fn join(
        stream: Arc<Stream>,
        subscription: Arc<Subscription>,
        all: &Arc<Subscriptions>,
        member: &Member,
    ) -> Self {
        let id = subscription.queue().join();
        Self {
            stream,
            member: id,
            kind: member.kind,
            all: Arc::downgrade(all),
            subscription,
        }
    }

    fn check(&self) -> Result<()> {
        if *self.stream.closed.borrow() {
            return Err(Error::new(ErrorKind::Closed, "the backend is closed"));
        }
        if self.subscription.has_ended() {
            return Err(unknown(&self.subscription.name));
        }
        Ok(())
    }

    /// An ephemeral subscription has no other owner.
    fn end_ephemeral(&self) {
        if self.subscription.ephemeral {
            self.subscription.end();
            if let Some(all) = self.all.upgrade() {
                all.lock().remove(&self.subscription.name);
            }
        }
    }
}

#[async_trait]
impl Consumer for PubSubConsumer {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let clock = &self.stream.wire.config.clock;
        let deadline = clock.now() + wait;
        loop {
            let mut woken = std::pin::pin!(self.subscription.claimable.notified());
            woken.as_mut().enable();
            self.check()?;
            // Before anything is leased: a receive that is dropped must not strand it.
            dead_letters::write(&self.stream, &self.subscription).await;
            let now = clock.now();
            let look = self
                .subscription
                .queue()
                .look(self.member, self.kind, max, now);
            let change = match look {
                Look::Deliveries(found) => return Ok(found),
                Look::Nothing(change) => change,
            };
            dead_letters::write(&self.stream, &self.subscription).await;
            if now >= deadline {
                return Ok(Vec::new());
            }
            let until = change.map_or(deadline, |change| change.min(deadline));
            tokio::select! {
                () = woken => {}
                () = clock.sleep_until(until) => {}
            }
        }
    }

    async fn settle(&self, settlements: Vec<(Receipt, Settlement)>) -> Result<Vec<Settled>> {
        self.check()?;
        let now = self.stream.wire.config.clock.now();
        let subscription = &self.subscription;
        let answers = subscription.change(|queue| queue.settle(settlements, now));
        dead_letters::write(&self.stream, subscription).await;
        Ok(answers)
    }

    async fn extend(&self, receipts: &[Receipt], lease: Duration) -> Result<Vec<Settled>> {
        self.check()?;
        let now = self.stream.wire.config.clock.now();
        let mut queue = self.subscription.queue();
        Ok(queue.extend(receipts, now + lease, now))
    }

    async fn close(&self) -> Result<()> {
        self.subscription.change(|queue| queue.release(self.member));
        dead_letters::write(&self.stream, &self.subscription).await;
        self.end_ephemeral();
        Ok(())
    }
}

impl Drop for PubSubConsumer {
    fn drop(&mut self) {
        // A durable one keeps its leases until they end, as after the death of the member.
        self.end_ephemeral();
    }
}
