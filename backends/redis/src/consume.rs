//! What Redis does for the members of a subscription. The members' own side is the fleet crate's; what
//! must happen at once is a script. Consumer groups of Redis are [`group`]'s.

mod group;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_core::clock::Clock;
use fanfare_core::consumer::Member;
use fanfare_core::error::Result;
use fanfare_core::subscription::{OnDead, SubscriptionName, SubscriptionSpec};
use fanfare_fleet::{
    Answer, Ask, Engine, FleetConsumer, Granted, How, Run, Slot, Stored, neighbours,
};
use tokio::sync::{Notify, watch};

use crate::connect::{Answer as Reply, Arguments, Wire};
use crate::log::{Frame, Log};
use crate::place::hex;
use crate::scripts::{self, Script};
use crate::subscription;

/// A member of a subscription.
pub(crate) type RedisConsumer = FleetConsumer<Desk>;

/// Where members of this process get and settle deliveries.
#[derive(Debug)]
pub(crate) struct Desk {
    wire: Arc<Wire>,
    log: Arc<Log>,
}

/// Joins a subscription that exists.
pub(crate) async fn join(
    wire: Arc<Wire>,
    log: Arc<Log>,
    name: &SubscriptionName,
    member: &Member,
    closed: watch::Receiver<bool>,
) -> Result<RedisConsumer> {
    log.note_settled().await?;
    let is_group = subscription::is_group(&wire, name).await?;
    let desk = Arc::new(Desk { wire, log });
    if is_group {
        group::join(desk, name, member, closed).await
    } else {
        FleetConsumer::join(desk, name, member, closed).await
    }
}

#[async_trait]
impl Engine for Desk {
    type Page = Frame;

    fn clock(&self) -> &Clock {
        &self.wire.config.clock
    }

    fn appended(&self) -> watch::Receiver<u64> {
        self.log.appended()
    }

    fn woken(&self, name: &SubscriptionName) -> Arc<Notify> {
        self.log.woken(name.as_str())
    }

    async fn after(&self, position: u128) -> Result<Vec<Arc<Frame>>> {
        self.log.after(position).await
    }

    async fn bodies(
        &self,
        name: &SubscriptionName,
        positions: &[u128],
    ) -> Result<BTreeMap<u128, Slot>> {
        if positions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut own = redis::cmd("HMGET");
        own.arg(self.wire.key(&format!("s:{name}:body")));
        for position in positions {
            own.arg(hex(*position));
        }
        let own: Vec<Option<Vec<u8>>> = self.wire.run(&own).await?;
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
        found.extend(self.log.find(&others).await?);
        Ok(found)
    }

    async fn load(&self, name: &SubscriptionName) -> Result<Option<Stored>> {
        let there = subscription::load(&self.wire, name).await?;
        Ok(there.map(|(stored, _)| stored))
    }

    async fn restore(&self, stored: &Stored) -> Result<()> {
        let settled = self.log.settled(&stored.spec.name);
        subscription::restore(&self.wire, stored, settled).await
    }

    async fn claim(&self, ask: &Ask<'_>) -> Result<Answer> {
        let ordered = ask.stored.spec.ordered;
        let mut arguments = who(ask)
            .position(ask.frontier)
            .position(ask.reached)
            .number(ask.max)
            .flag(ordered);
        if ordered {
            for (position, slot) in ask.fresh {
                let key = slot.event().and_then(|event| event.key());
                arguments = arguments.position(*position).text(key.unwrap_or_default());
            }
        } else {
            arguments = arguments.text(runs(ask.fresh));
        }
        let reply = self.wire.script(&scripts::CLAIM, &arguments).await?;
        let mut reply = Reply::new(reply, "claim")?;
        let outcome: String = reply.next()?;
        read_claim(&outcome, reply)
    }

    async fn bury(&self, spec: &SubscriptionSpec, dead: &[(u128, Vec<u8>)]) -> Result<()> {
        let mut arguments = self.at(&spec.name).flag(spec.dead_letter).flag(parks(spec));
        for (position, body) in dead {
            arguments = arguments.position(*position).bytes(body.clone());
        }
        self.wire.script(&scripts::BURY, &arguments).await?;
        Ok(())
    }

    async fn settle(&self, spec: &SubscriptionSpec, runs: &[Run]) -> Result<Option<Vec<String>>> {
        let mut arguments = self.at(&spec.name).flag(parks(spec));
        for run in runs {
            arguments = settled(arguments, run);
        }
        self.letters(&scripts::SETTLE, &arguments).await
    }

    async fn extend(
        &self,
        name: &SubscriptionName,
        runs: &[Run],
        lease: Duration,
    ) -> Result<Option<Vec<String>>> {
        let mut arguments = Arguments::default().text(name.as_str());
        arguments = arguments.number(lease.as_micros());
        for run in runs {
            arguments = arguments.number(run.epoch);
            arguments = arguments.position(run.first).number(run.count);
        }
        self.letters(&scripts::EXTEND, &arguments).await
    }

    async fn release(&self, name: &SubscriptionName, member: u64) -> Result<()> {
        let arguments = Arguments::default()
            .text(name.as_str())
            .text(digits(member));
        self.wire.script(&scripts::RELEASE, &arguments).await?;
        Ok(())
    }

    async fn end(&self, name: &SubscriptionName) -> Result<()> {
        let arguments = Arguments::default().text(name.as_str()).number(0);
        self.wire.script(&scripts::DELETE, &arguments).await?;
        Ok(())
    }

    async fn say_alive(&self, name: &SubscriptionName) -> Result<()> {
        let arguments = Arguments::default().text(name.as_str());
        self.wire.script(&scripts::ALIVE, &arguments).await?;
        Ok(())
    }
}

impl Desk {
    /// What a script begins with that notes the time.
    fn at(&self, name: &SubscriptionName) -> Arguments {
        let now = self.clock().now().as_nanos();
        Arguments::default().text(name.as_str()).number(now)
    }

    async fn letters(&self, script: &Script, arguments: &Arguments) -> Result<Option<Vec<String>>> {
        let reply = self.wire.script(script, arguments).await?;
        let mut reply = Reply::new(reply, "settle")?;
        if reply.next::<String>()? == "gone" {
            return Ok(None);
        }
        let mut letters = Vec::new();
        while let Some(some) = reply.next_if_any()? {
            letters.push(some);
        }
        Ok(Some(letters))
    }
}

fn parks(spec: &SubscriptionSpec) -> bool {
    spec.on_dead == OnDead::Park
}

/// Who asks, as the scripts know a member.
fn digits(member: u64) -> String {
    format!("{member:016x}")
}

/// What every claim begins with.
fn who(ask: &Ask<'_>) -> Arguments {
    Arguments::default()
        .text(ask.stored.spec.name.as_str())
        .text(digits(ask.member))
        .text(if ask.external { "x" } else { "e" })
        .number(ask.stored.version)
}

/// Neighbours as one run each: 32 digits of the first position, 4 of the count.
fn runs(events: &[(u128, Slot)]) -> String {
    let mut text = String::with_capacity(36);
    for (first, count) in neighbours(events) {
        // Writing to a text cannot fail.
        let _ = write!(text, "{}{count:04x}", hex(first));
    }
    text
}

/// The rest of the answer to a claim.
fn read_claim(outcome: &str, mut reply: Reply) -> Result<Answer> {
    match outcome {
        "gone" => return Ok(Answer::Gone),
        "stale" => return Ok(Answer::Stale),
        "bury" => return Ok(Answer::Bury(positions(reply)?)),
        _ => {}
    }
    let epoch = reply.next()?;
    let frontier = reply.next_position()?;
    let next: i64 = reply.next()?;
    let fresh = reply.next()?;
    let mut due = Vec::new();
    while !reply.is_empty() {
        due.push((reply.next_position()?, reply.next()?));
    }
    Ok(Answer::Granted(Granted {
        epoch,
        frontier,
        next: u64::try_from(next).ok().map(Duration::from_micros),
        fresh,
        due,
    }))
}

fn positions(mut reply: Reply) -> Result<Vec<u128>> {
    let mut positions = Vec::new();
    while !reply.is_empty() {
        positions.push(reply.next_position()?);
    }
    Ok(positions)
}

fn settled(arguments: Arguments, run: &Run) -> Arguments {
    let (letter, number, texts, body) = match &run.how {
        How::Ack => ("a", String::new(), "", &[][..]),
        How::Drop => ("d", String::new(), "", &[][..]),
        How::Release => ("v", String::new(), "", &[][..]),
        How::Retry(after, error) => ("r", after.as_micros().to_string(), error.as_str(), &[][..]),
        How::Dead {
            reason,
            error,
            body,
        } => ("x", reason.clone(), error.as_str(), body.as_slice()),
    };
    arguments
        .number(run.epoch)
        .text(letter)
        .position(run.first)
        .number(run.count)
        .text(number)
        .text(texts)
        .bytes(body.to_vec())
}
