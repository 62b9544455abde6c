//! Members of a native consumer group: Redis gives out what is new, to us and to members that know
//! nothing of us. What it gave to us is claimed like anything else, so that retries, order, suspects
//! and dead letters are the same; the group's own list is kept in step by the scripts.

mod given;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_core::consumer::Member;
use fanfare_core::error::Result;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use fanfare_fleet::{Answer, Claimed, Engine, FleetConsumer, Granted, Seat, Source, Stored, Turn};
use redis::Value;
use tokio::sync::watch;

use self::given::{Given, read};
use super::{Desk, RedisConsumer, parks, positions, read_claim, who};
use crate::connect::{Answer as Reply, Arguments};
use crate::frame::Slot;
use crate::scripts;

/// The key of an event that does not match, as the script takes it.
const SKIPPED: &str = "\u{1}";

/// How often a claim is tried again at once when something changed.
const ROUNDS: usize = 16;

/// One member of a group.
struct Group {
    seat: Arc<Seat<Desk>>,
    /// What the group gave us, not yet claimed.
    given: Given,
    /// Held while a claim is on its way.
    claiming: tokio::sync::Mutex<()>,
}

/// Joins a subscription that is a native group.
pub(super) async fn join(
    desk: Arc<Desk>,
    name: &SubscriptionName,
    member: &Member,
    closed: watch::Receiver<bool>,
) -> Result<RedisConsumer> {
    let group = Arc::new(Group {
        seat: Seat::take(desk, name, member, closed.clone()).await?,
        given: Given::default(),
        claiming: tokio::sync::Mutex::default(),
    });
    tokio::spawn(read(Arc::downgrade(&group), closed.clone()));
    tokio::spawn(keep(Arc::downgrade(&group), closed));
    let seat = group.seat.clone();
    Ok(FleetConsumer::fed_by(group, seat))
}

#[async_trait]
impl Source for Group {
    fn changed(&self) -> watch::Receiver<u64> {
        self.given.arrived()
    }

    async fn claim(&self, turn: Turn) -> Result<Claimed> {
        let _claiming = self.claiming.lock().await;
        for _ in 0..ROUNDS {
            if self.seat.has_ready() {
                return Ok(Claimed::More);
            }
            if let Some(claimed) = self.claim_once(turn).await? {
                return Ok(claimed);
            }
        }
        Ok(Claimed::More)
    }

    /// What Redis gives at the last moment is not to lie here.
    async fn comes(&self, arrived: &mut watch::Receiver<u64>) -> bool {
        self.read_ended(arrived).await
    }

    async fn leave(&self) -> Result<()> {
        self.stop_reading().await;
        self.keep_group(true).await?;
        let _claiming = self.claiming.lock().await;
        Ok(())
    }
}

/// What the server made of what it gave us.
enum Sent {
    Granted(Granted, Events),
    /// Nothing new is wanted now.
    Idle(Granted),
    /// Something changed: ask again.
    Again,
}

type Events = Vec<(u128, Slot)>;

impl Group {
    /// Claims what was given and what is due; asks the group for more where there is neither, as long
    /// as the receive lasts. None where something changed meanwhile.
    async fn claim_once(&self, turn: Turn) -> Result<Option<Claimed>> {
        let stored = self.seat.stored();
        let asked = self.desk().clock().now();
        let (granted, events) = match self.send(&stored, turn.max, asked).await? {
            Sent::Granted(granted, events) => (granted, events),
            Sent::Idle(granted) => return Ok(Some(Claimed::Nothing(granted.next))),
            Sent::Again => return Ok(None),
        };
        if let Some((last, _)) = granted.fresh.checked_sub(1).and_then(|at| events.get(at)) {
            self.given.claimed(*last);
        }
        if granted.epoch != 0 {
            let until = asked + stored.spec.lease;
            self.hand_out(&stored, granted, events, until).await?;
            return Ok(Some(Claimed::More));
        }
        if granted.fresh > 0 {
            return Ok(None);
        }
        if let Some(until) = turn.until {
            self.given.want(turn.max, until);
        }
        Ok(Some(Claimed::Nothing(granted.next)))
    }

    async fn send(&self, stored: &Stored, max: usize, now: Timestamp) -> Result<Sent> {
        let mut events = self.given_now(max, now);
        // Once more, where the server says what is next.
        for _ in 0..2 {
            let arguments = self.arguments(stored, &events, max);
            let reply = self.desk().wire.script(&scripts::CLAIM, &arguments).await?;
            let mut reply = Reply::new(reply, "claim")?;
            let outcome: String = reply.next()?;
            if outcome == "given" {
                events = self.slots(&positions(reply)?, max).await?;
                continue;
            }
            match read_claim(&outcome, reply)? {
                Answer::Granted(granted) if outcome == "idle" => return Ok(Sent::Idle(granted)),
                Answer::Granted(granted) => return Ok(Sent::Granted(granted, events)),
                Answer::Bury(positions) => self.seat.bury(stored, &positions).await?,
                Answer::Gone => drop(self.seat.renew(stored, true).await?),
                Answer::Stale => drop(self.seat.renew(stored, false).await?),
            }
            break;
        }
        Ok(Sent::Again)
    }

    fn arguments(&self, stored: &Stored, events: &[(u128, Slot)], max: usize) -> Arguments {
        let mut arguments = who(&self.seat.ask(stored, max, events));
        arguments = arguments.text(&self.desk().wire.consumer).text("");
        arguments = arguments.number(max).flag(stored.spec.ordered);
        for (position, slot) in events {
            let key = match slot {
                slot if !stored.matches(*position, slot) => SKIPPED,
                slot => slot
                    .event()
                    .and_then(|event| event.key())
                    .unwrap_or_default(),
            };
            arguments = arguments.position(*position).text(key);
        }
        arguments
    }

    /// Hands out what concerns us: what was taken over from others may not.
    async fn hand_out(
        &self,
        stored: &Stored,
        granted: Granted,
        events: Events,
        until: Timestamp,
    ) -> Result<()> {
        let mut known: BTreeMap<u128, Slot> = events.into_iter().collect();
        let taken = granted.due.iter().map(|(position, _)| *position);
        let taken: Vec<u128> = taken.filter(|p| !known.contains_key(p)).collect();
        known.extend(self.desk().bodies(self.seat.name(), &taken).await?);
        let concerns = |position: u128| {
            let slot = known.get(&position);
            slot.is_none_or(|slot| stored.matches(position, slot))
        };
        let due = granted.due.into_iter();
        let (ours, others): (Vec<_>, Vec<_>) = due.partition(|(at, _)| concerns(*at));
        self.seat
            .hand_out(stored, granted.epoch, ours, known, until)
            .await?;
        self.skip(stored, granted.epoch, &others).await
    }

    /// Settles what does not concern us.
    async fn skip(&self, stored: &Stored, epoch: u64, skipped: &[(u128, u32)]) -> Result<()> {
        if skipped.is_empty() {
            return Ok(());
        }
        let mut arguments = self.desk().at(self.seat.name()).flag(parks(&stored.spec));
        for (position, _) in skipped {
            arguments = arguments.number(epoch).text("n");
            arguments = arguments.position(*position).number(1);
            arguments = arguments.text("").text("").text("");
        }
        self.desk().letters(&scripts::SETTLE, &arguments).await?;
        Ok(())
    }

    fn desk(&self) -> &Desk {
        self.seat.engine()
    }

    /// What stands at the first of these positions; what is gone from the stream is undecodable.
    async fn slots(&self, positions: &[u128], max: usize) -> Result<Events> {
        let next: Vec<u128> = positions.iter().copied().take(max).collect();
        let mut found = self.desk().log.find(&next).await?;
        let slot = |position: u128| {
            let there = found.remove(&position);
            (position, there.unwrap_or_else(|| Slot::Raw(Bytes::new())))
        };
        Ok(next.into_iter().map(slot).collect())
    }

    /// Keeps what is ours from growing idle, and takes over what others left.
    /// What a broken connection or a close left unclaimed comes back at once if `unclaimed`.
    async fn keep_group(&self, unclaimed: bool) -> Result<()> {
        let arguments = Arguments::default().text(self.seat.name().as_str());
        let arguments = arguments.text(&self.desk().wire.consumer).flag(unclaimed);
        let answer = self.desk().wire.script(&scripts::KEEP, &arguments).await?;
        if answer == Value::Nil {
            return Ok(());
        }
        let mut answer = Reply::new(answer, "keep")?;
        let (restored, taken): (u64, u64) = (answer.next()?, answer.next()?);
        let (gone, lost): (u64, u64) = (answer.next()?, answer.next()?);
        let (stream, group) = (&self.desk().wire.config.stream, &self.seat.name());
        if restored > 0 {
            tracing::warn!(stream, %group, "the consumer group was gone and is made again");
        }
        if taken + gone > 0 {
            tracing::info!(stream, %group, taken, gone, "deliveries changed hands with other members");
        }
        if lost > 0 {
            tracing::error!(stream, %group, lost, "unsettled events are gone from the stream");
        }
        Ok(())
    }
}

async fn keep(member: Weak<Group>, mut closed: watch::Receiver<bool>) {
    loop {
        let Some(group) = member.upgrade() else {
            return;
        };
        // What nobody came for in time goes to others.
        let forgotten = group.given.forget(group.desk().wire.config.clock.now());
        if let Err(error) = group.keep_group(forgotten).await {
            tracing::warn!(group = %group.seat.name(), %error, "cannot look after the consumer group");
        }
        let clock = group.desk().wire.config.clock.clone();
        let pause = group.desk().wire.config.takeover / 6;
        drop(group);
        tokio::select! {
            _ = closed.wait_for(|closed| *closed) => return,
            () = clock.sleep(pause) => {}
        }
    }
}
