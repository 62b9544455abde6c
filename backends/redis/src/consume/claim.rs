//! Claiming: a member finds the next matching events in memory and asks the server, in one script,
//! for a lease on them and on whatever is due.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_core::consumer::MemberKind;
use fanfare_core::delivery::{Delivery, Receipt};
use fanfare_core::error::Result;
use fanfare_core::position::Position;
use fanfare_core::subscription::{OnDead, SubscriptionName};
use fanfare_core::timestamp::Timestamp;

use super::{Inner, Place};
use crate::connect::{Answer, Arguments, Wire};
use crate::frame::Slot;
use crate::log::Log;
use crate::place::{end_of, hex};
use crate::scripts;
use crate::settle::{self, How};
use crate::subscription::{Stored, unknown};

/// The most deliveries of one claim.
pub(super) const CLAIM: usize = 1_000;
/// The most events looked at before the frontier is moved over those that do not match.
const SCAN: usize = 50_000;
/// How often a claim is tried again at once when another member was quicker.
pub(super) const ROUNDS: usize = 16;
/// How often an ephemeral subscription says that it lives.
const ALIVE: Duration = Duration::from_secs(10);

/// What one claim came to.
pub(super) enum Claimed {
    /// Something is ready, or there may be more.
    More,
    /// Nothing until woken, or until so long from now.
    Nothing(Option<Duration>),
}

/// The next events of the subscription that nobody has claimed.
#[derive(Default)]
pub(super) struct Fresh {
    pub(super) events: Vec<(u128, Slot)>,
    pub(super) scanned: u128,
}

impl Inner {
    pub(super) async fn claim(self: Arc<Self>, max: usize, mut ask: bool) -> Result<Claimed> {
        let mut place = self.place.lock().await;
        for _ in 0..ROUNDS {
            if !self.ready.lock().is_empty() {
                return Ok(Claimed::More);
            }
            let stored = self.stored.read().clone();
            let fresh = self.look(&stored, &mut place, max.min(CLAIM)).await?;
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
            match self.ask(&stored, &mut place, fresh, max.min(CLAIM)).await? {
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
    async fn look(&self, stored: &Stored, place: &mut Place, max: usize) -> Result<Fresh> {
        let mut fresh = Fresh {
            events: Vec::new(),
            scanned: place.scanned,
        };
        let mut looked = 0;
        loop {
            while place
                .page
                .front()
                .is_some_and(|frame| frame.last() <= fresh.scanned)
            {
                place.page.pop_front();
            }
            if place.page.is_empty() {
                place.page = self.log.after(fresh.scanned).await?.into();
            }
            let Some(frame) = place.page.front() else {
                return Ok(fresh);
            };
            for (position, slot) in frame.after(fresh.scanned) {
                if fresh.events.len() == max {
                    return Ok(fresh);
                }
                if stored.matches(position, slot) {
                    fresh.events.push((position, slot.clone()));
                }
                looked += 1;
                fresh.scanned = position;
            }
            fresh.scanned = end_of(frame.head);
            if fresh.events.len() == max || looked >= SCAN {
                return Ok(fresh);
            }
        }
    }

    async fn ask(
        &self,
        stored: &Stored,
        place: &mut Place,
        fresh: Fresh,
        max: usize,
    ) -> Result<Asked> {
        let asked = self.wire.config.clock.now();
        let arguments = self.claim_arguments(stored, place, &fresh, max);
        let Sent::Granted(granted) = self.send(stored, place, &arguments).await? else {
            return Ok(Asked::Again);
        };
        let expected = place.frontier;
        place.frontier = granted.frontier;
        if granted.frontier < fresh.scanned {
            // What was read ahead is still to be claimed.
            place.page.clear();
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
        self.hand_out(stored, granted, fresh, asked + stored.spec.lease)
            .await?;
        Ok(Asked::Granted)
    }

    /// What the server grants, or what else is to be done.
    pub(super) async fn send(
        &self,
        stored: &Stored,
        place: &mut Place,
        arguments: &Arguments,
    ) -> Result<Sent> {
        let answer = self.wire.script(&scripts::CLAIM, arguments).await?;
        let mut answer = Answer::new(answer, "claim")?;
        match answer.next::<String>()?.as_str() {
            "ok" => return Granted::read(answer).map(Sent::Granted),
            "given" => {
                let mut positions = Vec::new();
                while !answer.is_empty() {
                    positions.push(answer.next_position()?);
                }
                return Ok(Sent::Given(positions));
            }
            gone_or_stale @ ("gone" | "stale") => {
                if gone_or_stale == "gone" {
                    self.restore().await?;
                }
                let now = Stored::load(&self.wire, &self.name).await?;
                let now = now.ok_or_else(|| unknown(&self.name))?;
                place.frontier = now.frontier;
                place.scanned = now.frontier;
                place.page.clear();
                *self.stored.write() = Arc::new(now);
            }
            _ => self.bury(stored, answer).await?,
        }
        Ok(Sent::Again)
    }

    /// What every claim begins with.
    pub(super) fn who(&self, stored: &Stored) -> Arguments {
        let kind = if self.kind == MemberKind::External {
            "x"
        } else {
            "e"
        };
        Arguments::default()
            .text(self.name.as_str())
            .text(&self.member)
            .text(kind)
            .text(&stored.version)
    }

    fn claim_arguments(
        &self,
        stored: &Stored,
        place: &Place,
        fresh: &Fresh,
        max: usize,
    ) -> Arguments {
        let mut arguments = self
            .who(stored)
            .position(place.frontier)
            .position(fresh.scanned)
            .number(max)
            .flag(stored.spec.ordered);
        if stored.spec.ordered {
            for (position, slot) in &fresh.events {
                let key = slot.event().and_then(|event| event.key());
                arguments = arguments.position(*position).text(key.unwrap_or_default());
            }
            return arguments;
        }
        arguments.text(runs(&fresh.events))
    }

    /// Puts what was granted where the next receive finds it.
    pub(super) async fn hand_out(
        &self,
        stored: &Stored,
        granted: Granted,
        fresh: Fresh,
        until: Timestamp,
    ) -> Result<()> {
        let mut known: BTreeMap<u128, Slot> = BTreeMap::new();
        let mut order = granted.due;
        if stored.spec.ordered || stored.group {
            known.extend(fresh.events);
        } else {
            for (position, slot) in fresh.events.into_iter().take(granted.fresh.unwrap_or(0)) {
                order.push((position, 1));
                known.insert(position, slot);
            }
        }
        let missing: Vec<u128> = order
            .iter()
            .map(|(position, _)| *position)
            .filter(|position| !known.contains_key(position))
            .collect();
        known.extend(bodies(&self.wire, &self.log, &self.name, &missing).await?);
        let mut undeliverable = Vec::new();
        let mut deliveries = Vec::with_capacity(order.len());
        for (position, attempt) in order {
            let receipt = Receipt {
                position: Position(position),
                epoch: granted.epoch,
            };
            match known.remove(&position) {
                // Taken over from others, whom it may have concerned.
                Some(slot) if stored.group && !stored.matches(position, &slot) => {
                    undeliverable.push((receipt, How::Skip));
                }
                Some(Slot::Event(event)) => deliveries.push(Delivery {
                    event,
                    position: receipt.position,
                    attempt,
                    receipt,
                    lease_until: until,
                }),
                Some(Slot::Raw(_)) => {
                    let error = "the stream entry is no event".into();
                    undeliverable.push((receipt, How::Dead("undecodable".into(), error)));
                }
                None => {
                    tracing::error!(subscription = %self.name, %receipt, "the event is gone from the stream");
                    undeliverable.push((receipt, How::Drop));
                }
            }
        }
        self.ready.lock().extend(deliveries);
        if !undeliverable.is_empty() {
            settle::settle(&self.wire, &self.log, &stored.spec, undeliverable).await?;
        }
        Ok(())
    }

    /// Gives up suspects that are out of attempts.
    async fn bury(&self, stored: &Stored, mut answer: Answer) -> Result<()> {
        let mut positions = Vec::new();
        while !answer.is_empty() {
            positions.push(answer.next_position()?);
        }
        let bodies = bodies(&self.wire, &self.log, &self.name, &positions).await?;
        let now = self.wire.config.clock.now().as_nanos();
        let mut arguments = Arguments::default().text(self.name.as_str()).number(now);
        arguments = arguments.flag(stored.spec.dead_letter);
        arguments = arguments.flag(stored.spec.on_dead == OnDead::Park);
        for position in positions {
            let body = bodies.get(&position).map(Slot::encode).unwrap_or_default();
            arguments = arguments.position(position).bytes(body);
        }
        self.wire.script(&scripts::BURY, &arguments).await?;
        Ok(())
    }

    async fn say_alive(&self, stored: &Stored, place: &mut Place) -> Result<()> {
        let now = self.wire.config.clock.now();
        if stored.spec.ephemeral && now.since(place.alive) >= ALIVE {
            place.alive = now;
            let arguments = Arguments::default().text(self.name.as_str());
            self.wire.script(&scripts::ALIVE, &arguments).await?;
        }
        Ok(())
    }
}

/// The answer to a claim.
pub(super) enum Sent {
    Granted(Granted),
    /// A consumer group of Redis gave these to our members: they are next.
    Given(Vec<u128>),
    /// Something changed: ask again.
    Again,
}

pub(super) enum Asked {
    Granted,
    Nothing(Option<Duration>),
    /// Something changed: look again.
    Again,
}

/// What is leased now.
pub(super) struct Granted {
    pub(super) epoch: u64,
    frontier: u128,
    pub(super) next: Option<Duration>,
    /// How many of the fresh events; none where none are wanted now.
    pub(super) fresh: Option<usize>,
    /// Positions and attempts.
    due: Vec<(u128, u32)>,
}

impl Granted {
    fn read(mut answer: Answer) -> Result<Self> {
        let epoch = answer.next()?;
        let frontier = answer.next_position()?;
        let next: i64 = answer.next()?;
        let fresh: i64 = answer.next()?;
        let mut due = Vec::new();
        while !answer.is_empty() {
            due.push((answer.next_position()?, answer.next()?));
        }
        Ok(Self {
            epoch,
            frontier,
            next: u64::try_from(next).ok().map(Duration::from_micros),
            fresh: usize::try_from(fresh).ok(),
            due,
        })
    }
}

/// Neighbours as one run each: 32 digits of the first position, 4 of the count.
fn runs(events: &[(u128, Slot)]) -> String {
    let mut text = String::with_capacity(36);
    for run in events.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
        if let Some((first, _)) = run.first() {
            // Writing to a text cannot fail.
            let _ = write!(text, "{}{:04x}", hex(*first), run.len());
        }
    }
    text
}

/// What is to be delivered at these positions: the edited body of a redriven event, or the log's.
pub(crate) async fn bodies(
    wire: &Wire,
    log: &Log,
    name: &SubscriptionName,
    positions: &[u128],
) -> Result<BTreeMap<u128, Slot>> {
    if positions.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut own = redis::cmd("HMGET");
    own.arg(wire.key(&format!("s:{name}:body")));
    for position in positions {
        own.arg(hex(*position));
    }
    let own: Vec<Option<Vec<u8>>> = wire.run(&own).await?;
    let mut found = BTreeMap::new();
    let mut others = Vec::new();
    for (position, body) in positions.iter().zip(own) {
        match body {
            Some(body) => {
                found.insert(*position, Slot::decode(Bytes::from(body)));
            }
            None => others.push(*position),
        }
    }
    found.extend(log.find(&others).await?);
    Ok(found)
}
