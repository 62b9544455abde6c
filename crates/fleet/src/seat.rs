//! What one member of a subscription knows and holds: the subscription as last seen, and what was
//! claimed and not yet handed out. Where new deliveries come from is a [`Source`](crate::Source)'s.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use fanfare_core::consumer::{Member, MemberKind};
use fanfare_core::delivery::{Delivery, Receipt, Settlement};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::position::Position;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use uuid::Uuid;

use crate::engine::{Ask, Engine};
use crate::settle::settle;
use crate::slot::Slot;
use crate::subscription::{Stored, unknown};

/// How often a subscription is made again before its member gives up for now.
const RENEWALS: usize = 8;

/// One member's place in a subscription.
pub struct Seat<E: Engine> {
    engine: Arc<E>,
    name: SubscriptionName,
    /// No other member has this number.
    member: u64,
    kind: MemberKind,
    closed: watch::Receiver<bool>,
    /// As last seen.
    stored: RwLock<Arc<Stored>>,
    /// Claimed, not yet handed out.
    ready: Mutex<VecDeque<Delivery>>,
}

impl<E: Engine> Seat<E> {
    /// Takes a seat in a subscription that exists.
    pub async fn take(
        engine: Arc<E>,
        name: &SubscriptionName,
        member: &Member,
        closed: watch::Receiver<bool>,
    ) -> Result<Arc<Self>> {
        let stored = engine.load(name).await?.ok_or_else(|| unknown(name))?;
        let (high, low) = Uuid::now_v7().as_u64_pair();
        Ok(Arc::new(Self {
            engine,
            name: name.clone(),
            member: high.rotate_left(32) ^ low,
            kind: member.kind,
            closed,
            stored: RwLock::new(Arc::new(stored)),
            ready: Mutex::default(),
        }))
    }

    /// Where the subscription is kept.
    pub fn engine(&self) -> &E {
        &self.engine
    }

    /// Of the subscription.
    pub fn name(&self) -> &SubscriptionName {
        &self.name
    }

    /// Where its handlers run.
    pub fn kind(&self) -> MemberKind {
        self.kind
    }

    /// Whether the backend is closed.
    pub fn closed(&self) -> watch::Receiver<bool> {
        self.closed.clone()
    }

    /// The subscription as last seen.
    pub fn stored(&self) -> Arc<Stored> {
        self.stored.read().clone()
    }

    /// Whether something was claimed and not yet handed out.
    pub fn has_ready(&self) -> bool {
        !self.ready.lock().is_empty()
    }

    /// What this member asks for, as long as nobody moved the frontier.
    pub fn ask<'a>(&self, stored: &'a Stored, max: usize, fresh: &'a [(u128, Slot)]) -> Ask<'a> {
        Ask {
            stored,
            member: self.member,
            external: self.kind == MemberKind::External,
            frontier: stored.frontier,
            reached: stored.frontier,
            max,
            fresh,
        }
    }

    /// Looks at the subscription again, and makes it again where it is gone: as often as somebody
    /// deletes it meanwhile, within bounds. A member that gave up here would be the last to know it.
    pub async fn renew(&self, stored: &Stored, mut is_gone: bool) -> Result<Arc<Stored>> {
        for _ in 0..RENEWALS {
            if is_gone {
                self.engine.restore(stored).await?;
            }
            if let Some(now) = self.engine.load(&self.name).await? {
                let now = Arc::new(now);
                *self.stored.write() = now.clone();
                return Ok(now);
            }
            is_gone = true;
        }
        let text = format!(
            "the subscription `{}` is deleted again and again",
            self.name
        );
        Err(Error::new(ErrorKind::Unavailable, text))
    }

    /// Gives up suspects that are out of attempts.
    pub async fn bury(&self, stored: &Stored, positions: &[u128]) -> Result<()> {
        let mut bodies = self.engine.bodies(&self.name, positions).await?;
        let encoded = |position: &u128| {
            let body = bodies.remove(position).as_ref().map(Slot::encode);
            (*position, body.unwrap_or_default())
        };
        let dead: Vec<_> = positions.iter().map(encoded).collect();
        self.engine.bury(&stored.spec, &dead).await
    }

    /// Puts what was granted, as positions and attempts, where the next receive finds it. What is not
    /// among the `known` is read.
    pub async fn hand_out(
        &self,
        stored: &Stored,
        epoch: u64,
        granted: Vec<(u128, u32)>,
        mut known: BTreeMap<u128, Slot>,
        until: Timestamp,
    ) -> Result<()> {
        let missing = granted.iter().map(|(position, _)| *position);
        let missing: Vec<u128> = missing.filter(|p| !known.contains_key(p)).collect();
        if !missing.is_empty() {
            known.extend(self.engine.bodies(&self.name, &missing).await?);
        }
        let mut undeliverable = Vec::new();
        let mut deliveries = Vec::with_capacity(granted.len());
        for (position, attempt) in granted {
            let receipt = Receipt {
                position: Position(position),
                epoch,
            };
            match known.remove(&position) {
                Some(Slot::Event(event)) => deliveries.push(Delivery {
                    event,
                    position: receipt.position,
                    attempt,
                    receipt,
                    lease_until: until,
                }),
                Some(Slot::Raw(_)) => {
                    let dead = Settlement::DeadLetter {
                        reason: "undecodable".into(),
                        error: "the stream entry is no event".into(),
                    };
                    undeliverable.push((receipt, dead));
                }
                None => {
                    tracing::error!(subscription = %self.name, %receipt, "the event is gone from the stream");
                    undeliverable.push((receipt, Settlement::Drop));
                }
            }
        }
        self.ready.lock().extend(deliveries);
        if !undeliverable.is_empty() {
            settle(&*self.engine, stored, undeliverable).await?;
        }
        Ok(())
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        // One that was dropped without a close is gone too.
        if *self.closed.borrow() || self.closed.has_changed().is_err() {
            return Err(Error::new(ErrorKind::Closed, "the backend is closed"));
        }
        Ok(())
    }

    /// What was claimed and is still ours. What lay here longer than its lease goes back as not
    /// started, unless somebody took it already; the rest stays here meanwhile, for whoever comes
    /// next where this one does not wait for that.
    pub(crate) async fn take_ready(&self, max: usize) -> Result<Vec<Delivery>> {
        loop {
            let now = self.engine.clock().now();
            let stale: Vec<Delivery> = {
                let mut ready = self.ready.lock();
                let count = max.min(ready.len());
                let (taken, stale): (Vec<_>, Vec<_>) = ready
                    .drain(..count)
                    .partition(|delivery| delivery.lease_until > now);
                if stale.is_empty() {
                    return Ok(taken);
                }
                for delivery in taken.into_iter().rev() {
                    ready.push_front(delivery);
                }
                stale
            };
            let releases = stale.iter().map(|d| (d.receipt, Settlement::Release));
            settle(&*self.engine, &self.stored(), releases.collect()).await?;
        }
    }

    /// Gives back what this member holds.
    pub(crate) async fn leave(&self) -> Result<()> {
        self.ready.lock().clear();
        if self.stored().spec.ephemeral {
            self.engine.end(&self.name).await
        } else {
            self.engine.release(&self.name, self.member).await
        }
    }
}

impl<E: Engine> fmt::Debug for Seat<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat")
            .field("subscription", &self.name)
            .finish_non_exhaustive()
    }
}
