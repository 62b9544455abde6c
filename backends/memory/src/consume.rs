//! Claiming and settling.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::clock::Clock;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::dead_letter::{DeadBody, DeadLetter, fingerprint};
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::error::Result;
use fanfare_core::position::Position;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::{Granted, MemberId};
use tokio::sync::Notify;

use crate::backend::{Inner, Letter, MemoryBackend, Shared, unknown};

/// The most positions looked at under one lock, so that a subscription that matches little does not
/// hold up the others.
const MAX_SCAN: usize = 10_000;

pub(crate) struct MemoryConsumer {
    shared: Arc<Shared>,
    clock: Clock,
    name: SubscriptionName,
    member: MemberId,
    kind: MemberKind,
    ephemeral: bool,
    wake: Arc<Notify>,
}

/// What one look at the subscription found.
enum Look {
    Deliveries(Vec<Delivery>),
    /// More of the log is to be looked at.
    Again,
    /// Nothing until woken, or until then.
    Nothing(Option<Timestamp>),
}

impl MemoryConsumer {
    pub(crate) fn join(
        backend: &MemoryBackend,
        name: &SubscriptionName,
        member: &Member,
    ) -> Result<Self> {
        let mut inner = backend.lock()?;
        inner.last_member += 1;
        let id = MemberId(inner.last_member);
        let subscription = inner.subscription(name)?;
        Ok(Self {
            shared: Arc::clone(&backend.shared),
            clock: backend.config.clock.clone(),
            name: name.clone(),
            member: id,
            kind: member.kind,
            ephemeral: subscription.spec.ephemeral,
            wake: Arc::clone(&subscription.wake),
        })
    }

    fn look(&self, max: usize) -> Result<Look> {
        let now = self.clock.now();
        let mut inner = self.shared.lock()?;
        let Inner {
            log,
            subscriptions,
            room,
            ..
        } = &mut *inner;
        let subscription = subscriptions
            .get_mut(&self.name)
            .ok_or_else(|| unknown(&self.name))?;
        if subscription.paused {
            subscription.cursor.expire(now);
            return Ok(Look::Nothing(subscription.cursor.next_change()));
        }
        let plan = subscription.cursor.plan(self.member, self.kind, max, now);
        let granted = if plan.suspect.is_some() {
            subscription
                .cursor
                .grant_suspect(&plan, now)
                .unwrap_or_default()
        } else {
            let mut fresh = Vec::new();
            let mut scanned = plan.after;
            for (seen, (position, slot)) in log.after(plan.after).enumerate() {
                if fresh.len() == plan.fresh || seen == MAX_SCAN {
                    break;
                }
                scanned = position;
                if subscription
                    .interest
                    .matches(position, slot.event.event_type())
                {
                    fresh.push((position, slot.event.key()));
                }
            }
            subscription.cursor.grant(&plan, fresh, scanned, now)
        };
        room.passed += subscription.cursor.frontier() - plan.after;
        let more = subscription.cursor.frontier() < log.head()
            && subscription.cursor.frontier() > plan.after;
        let until = subscription.cursor.next_change();
        let deliveries = deliveries(&granted, |position| {
            subscription.body(log, position).cloned()
        });
        inner.bury(&self.name);
        Ok(match deliveries {
            found if !found.is_empty() => Look::Deliveries(found),
            _ if more => Look::Again,
            _ => Look::Nothing(until),
        })
    }
}

fn deliveries(
    granted: &Granted,
    body: impl Fn(u64) -> Option<fanfare_core::event::Event>,
) -> Vec<Delivery> {
    let delivery = |(position, attempt): &(u64, u32)| {
        Some(Delivery {
            event: body(*position)?,
            position: (*position).into(),
            attempt: *attempt,
            receipt: Receipt {
                position: (*position).into(),
                epoch: granted.epoch,
            },
            lease_until: granted.until,
        })
    };
    granted.deliveries.iter().filter_map(delivery).collect()
}

impl Inner {
    /// Makes dead letters of what the cursor gave up.
    pub(crate) fn bury(&mut self, name: &SubscriptionName) {
        let Some(subscription) = self.subscriptions.get_mut(name) else {
            return;
        };
        for dead in subscription.cursor.take_dead() {
            let body = subscription.bodies.remove(&dead.position);
            let Some(event) =
                body.or_else(|| self.log.get(dead.position).map(|slot| slot.event.clone()))
            else {
                continue;
            };
            self.last_letter += 1;
            let letter = DeadLetter {
                id: self.last_letter.to_string(),
                subscription: name.clone(),
                position: Position::from(dead.position),
                body: DeadBody::Event(event),
                original: None,
                fingerprint: fingerprint(&dead.reason, &dead.error),
                reason: dead.reason,
                error: dead.error,
                attempts: dead.attempts,
                first_failure: dead.first_failure,
                last_failure: dead.last_failure,
            };
            self.dead.insert(
                self.last_letter,
                Letter {
                    letter,
                    generation: dead.generation,
                },
            );
        }
    }
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let deadline = self.clock.now() + wait;
        loop {
            let woken = self.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let change = match self.look(max)? {
                Look::Deliveries(found) => return Ok(found),
                Look::Again => continue,
                Look::Nothing(change) => change,
            };
            if self.clock.now() >= deadline {
                return Ok(Vec::new());
            }
            let until = change.map_or(deadline, |change| change.min(deadline));
            tokio::select! {
                () = woken => {}
                () = self.clock.sleep_until(until) => {}
            }
        }
    }

    async fn settle(&self, settlements: Vec<(Receipt, Settlement)>) -> Result<Vec<Settled>> {
        let now = self.clock.now();
        let mut inner = self.shared.lock()?;
        inner.room.passed += settlements.len() as u64;
        let subscription = inner.subscription_mut(&self.name)?;
        // A lease that ended is over, even if nobody has claimed since.
        subscription.cursor.expire(now);
        let answers = settlements
            .into_iter()
            .map(|(receipt, settlement)| {
                subscription
                    .cursor
                    .settle(receipt.position.low(), receipt.epoch, settlement, now)
            })
            .collect();
        subscription.wake.notify_waiters();
        inner.bury(&self.name);
        if let Some(subscription) = inner.subscriptions.get_mut(&self.name) {
            subscription.drop_settled_bodies();
        }
        Ok(answers)
    }

    async fn extend(&self, receipts: &[Receipt], lease: Duration) -> Result<Vec<Settled>> {
        let now = self.clock.now();
        let mut inner = self.shared.lock()?;
        let subscription = inner.subscription_mut(&self.name)?;
        subscription.cursor.expire(now);
        let receipts: Vec<_> = receipts
            .iter()
            .map(|r| (r.position.low(), r.epoch))
            .collect();
        Ok(subscription.cursor.extend(&receipts, now + lease))
    }

    async fn close(&self) -> Result<()> {
        let Ok(mut inner) = self.shared.lock() else {
            return Ok(());
        };
        if self.ephemeral {
            inner.subscriptions.remove(&self.name);
            inner.room.forget();
        } else if let Ok(subscription) = inner.subscription_mut(&self.name) {
            subscription.cursor.release_member(self.member);
        }
        self.wake.notify_waiters();
        Ok(())
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        // An ephemeral subscription has no other owner. A durable one keeps its leases until they
        // end, as after the death of the member.
        if self.ephemeral
            && let Ok(mut inner) = self.shared.lock()
        {
            inner.subscriptions.remove(&self.name);
            inner.room.forget();
        }
    }
}
