//! Claiming: a member finds the next matching events in memory and asks the engine, in one step, for a
//! lease on them and on whatever is due.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fanfare_core::consumer::MemberKind;
use fanfare_core::delivery::{Delivery, Receipt, Settlement};
use fanfare_core::error::Result;
use fanfare_core::position::Position;
use fanfare_core::timestamp::Timestamp;

use crate::consumer::{Inner, Place};
use crate::engine::{Answer, Ask, Engine, Granted, Page};
use crate::settle::settle;
use crate::slot::Slot;
use crate::subscription::{Stored, unknown};

/// The most deliveries of one claim.
const CLAIM: usize = 1_000;
/// The most events looked at before the frontier is moved over those that do not match.
const SCAN: usize = 50_000;
/// How often a claim is tried again at once when another member was quicker.
const ROUNDS: usize = 16;
/// How often an ephemeral subscription says that it lives.
const ALIVE: Duration = Duration::from_secs(10);

/// What one claim came to.
pub(crate) enum Claimed {
    /// Something is ready, or there may be more.
    More,
    /// Nothing until woken, or until so long from now.
    Nothing(Option<Duration>),
}

/// The next events of the subscription that nobody has claimed.
#[derive(Default)]
struct Fresh {
    events: Vec<(u128, Slot)>,
    scanned: u128,
}

enum Asked {
    Granted,
    Nothing(Option<Duration>),
    /// Something changed: look again.
    Again,
}

impl<E: Engine> Inner<E> {
    pub(crate) async fn claim(self: Arc<Self>, max: usize, mut ask: bool) -> Result<Claimed> {
        let mut place = self.place.lock().await;
        let max = max.min(CLAIM);
        for _ in 0..ROUNDS {
            if !self.ready.lock().is_empty() {
                return Ok(Claimed::More);
            }
            let stored = self.stored.read().clone();
            let fresh = self.look(&stored, &mut place, max).await?;
            let behind = fresh.scanned > place.scanned && fresh.events.is_empty();
            if fresh.events.is_empty() && !ask {
                place.scanned = fresh.scanned;
                return Ok(if behind {
                    Claimed::More
                } else {
                    Claimed::Nothing(None)
                });
            }
            let scanned = fresh.scanned;
            match self.ask(&stored, &mut place, fresh, max).await? {
                Asked::Granted => return Ok(Claimed::More),
                Asked::Nothing(_) if behind && place.frontier == scanned => {}
                Asked::Nothing(next) => {
                    self.say_alive(&stored, &mut place).await?;
                    return Ok(Claimed::Nothing(next));
                }
                Asked::Again => {}
            }
            ask = true;
        }
        Ok(Claimed::More)
    }

    /// Up to `max` matching events behind what was scanned.
    async fn look(&self, stored: &Stored, place: &mut Place<E::Page>, max: usize) -> Result<Fresh> {
        let mut fresh = Fresh {
            events: Vec::new(),
            scanned: place.scanned,
        };
        let mut looked = 0;
        loop {
            while let Some(page) = place.pages.front()
                && page.last() <= fresh.scanned
            {
                place.pages.pop_front();
            }
            if place.pages.is_empty() {
                place.pages = self.engine.after(fresh.scanned).await?.into();
            }
            let Some(page) = place.pages.front() else {
                return Ok(fresh);
            };
            for (position, slot) in page.after(fresh.scanned) {
                if fresh.events.len() == max {
                    return Ok(fresh);
                }
                if stored.matches(position, slot) {
                    fresh.events.push((position, slot.clone()));
                }
                looked += 1;
                fresh.scanned = position;
            }
            fresh.scanned = page.end();
            if fresh.events.len() == max || looked >= SCAN {
                return Ok(fresh);
            }
        }
    }

    async fn ask(
        &self,
        stored: &Stored,
        place: &mut Place<E::Page>,
        fresh: Fresh,
        max: usize,
    ) -> Result<Asked> {
        let asked = self.engine.clock().now();
        let ask = Ask {
            stored,
            member: self.member,
            external: self.kind == MemberKind::External,
            frontier: place.frontier,
            reached: fresh.scanned,
            max,
            fresh: &fresh.events,
        };
        let granted = match self.engine.claim(&ask).await? {
            Answer::Granted(granted) => granted,
            answer @ (Answer::Gone | Answer::Stale) => {
                if matches!(answer, Answer::Gone) {
                    self.engine.restore(stored).await?;
                }
                let now = self.engine.load(&self.name).await?;
                let now = now.ok_or_else(|| unknown(&self.name))?;
                place.frontier = now.frontier;
                place.scanned = now.frontier;
                place.pages.clear();
                *self.stored.write() = Arc::new(now);
                return Ok(Asked::Again);
            }
            Answer::Bury(positions) => {
                self.bury(stored, &positions).await?;
                return Ok(Asked::Again);
            }
        };
        let expected = place.frontier;
        place.frontier = granted.frontier;
        if granted.frontier < fresh.scanned {
            // What was read ahead is still to be claimed.
            place.pages.clear();
        }
        place.scanned = granted.frontier;
        if granted.epoch == 0 {
            let raced = granted.frontier != expected && granted.frontier != fresh.scanned;
            return Ok(if raced {
                Asked::Again
            } else {
                Asked::Nothing(granted.next)
            });
        }
        let until = asked + stored.spec.lease;
        self.hand_out(stored, granted, fresh, until).await?;
        Ok(Asked::Granted)
    }

    /// Puts what was granted where the next receive finds it.
    async fn hand_out(
        &self,
        stored: &Stored,
        granted: Granted,
        fresh: Fresh,
        until: Timestamp,
    ) -> Result<()> {
        let mut known: BTreeMap<u128, Slot> = BTreeMap::new();
        let mut order = granted.due;
        if stored.spec.ordered {
            known.extend(fresh.events);
        } else {
            for (position, slot) in fresh.events.into_iter().take(granted.fresh) {
                order.push((position, 1));
                known.insert(position, slot);
            }
        }
        let missing = order.iter().map(|(position, _)| *position);
        let missing: Vec<u128> = missing.filter(|p| !known.contains_key(p)).collect();
        if !missing.is_empty() {
            known.extend(self.engine.bodies(&self.name, &missing).await?);
        }
        let mut undeliverable = Vec::new();
        let mut deliveries = Vec::with_capacity(order.len());
        for (position, attempt) in order {
            let receipt = Receipt {
                position: Position(position),
                epoch: granted.epoch,
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

    /// Gives up suspects that are out of attempts.
    async fn bury(&self, stored: &Stored, positions: &[u128]) -> Result<()> {
        let mut bodies = self.engine.bodies(&self.name, positions).await?;
        let encoded = |position: &u128| {
            let body = bodies.remove(position).as_ref().map(Slot::encode);
            (*position, body.unwrap_or_default())
        };
        let dead: Vec<_> = positions.iter().map(encoded).collect();
        self.engine.bury(&stored.spec, &dead).await
    }

    async fn say_alive(&self, stored: &Stored, place: &mut Place<E::Page>) -> Result<()> {
        let now = self.engine.clock().now();
        if stored.spec.ephemeral && now.since(place.alive) >= ALIVE {
            place.alive = now;
            self.engine.say_alive(&self.name).await?;
        }
        Ok(())
    }
}
