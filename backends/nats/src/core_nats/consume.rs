//! One member of a subscription of this process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::error::Result;
use fanfare_cursor::MemberId;
use fanfare_cursor::queue::{Look, Queue};

use super::room::{Room, unknown};
use super::subscription::Subscription;

pub(super) struct CoreConsumer {
    room: Arc<Room>,
    subscription: Arc<Subscription>,
    member: MemberId,
    kind: MemberKind,
}

impl CoreConsumer {
    pub(super) fn join(room: Arc<Room>, subscription: Arc<Subscription>, member: &Member) -> Self {
        let id = subscription.queue().join();
        Self {
            room,
            member: id,
            kind: member.kind,
            subscription,
        }
    }

    fn check(&self) -> Result<()> {
        self.room.check_open()?;
        if self.subscription.has_ended() {
            return Err(unknown(&self.subscription.name));
        }
        Ok(())
    }

    /// Changes the queue and takes what it gave up.
    fn change<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let done = self.subscription.change(change);
        self.room.letters.collect(&self.subscription, &self.room);
        done
    }

    /// An ephemeral subscription has no other owner.
    fn end_ephemeral(&self) {
        if self.subscription.ephemeral {
            self.subscription.end();
            let mut all = self.room.subscriptions.lock();
            all.remove(&self.subscription.name);
        }
    }
}

#[async_trait]
impl Consumer for CoreConsumer {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let clock = &self.room.wire.config.clock;
        let deadline = clock.now() + wait;
        loop {
            let mut woken = std::pin::pin!(self.subscription.claimable.notified());
            woken.as_mut().enable();
            self.check()?;
            let now = clock.now();
            let look = {
                let mut queue = self.subscription.queue();
                queue.look(self.member, self.kind, max, now)
            };
            self.room.letters.collect(&self.subscription, &self.room);
            let change = match look {
                Look::Deliveries(found) => return Ok(found),
                Look::Nothing(change) => change,
            };
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
        let now = self.room.wire.config.clock.now();
        Ok(self.change(|queue| queue.settle(settlements, now)))
    }

    async fn extend(&self, receipts: &[Receipt], lease: Duration) -> Result<Vec<Settled>> {
        self.check()?;
        let now = self.room.wire.config.clock.now();
        let mut queue = self.subscription.queue();
        Ok(queue.extend(receipts, now + lease, now))
    }

    async fn close(&self) -> Result<()> {
        self.change(|queue| queue.release(self.member));
        self.end_ephemeral();
        Ok(())
    }
}

impl Drop for CoreConsumer {
    fn drop(&mut self) {
        // A durable one keeps its leases until they end, as after the death of the member.
        self.end_ephemeral();
    }
}
