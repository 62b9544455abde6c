//! Members of a native consumer group: Redis gives out what is new, to us and to members that know
//! nothing of us. What it gave to us is claimed like anything else, so that retries, order, suspects
//! and dead letters are the same; the group's own list is kept in step by the scripts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::timestamp::Timestamp;
use parking_lot::Mutex;
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;

use super::claim::{Asked, CLAIM, Claimed, Fresh, ROUNDS, Sent};
use super::{Inner, Place};
use crate::connect::{Answer, Arguments};
use crate::error::map;
use crate::frame::Slot;
use crate::log::Streams;
use crate::subscription::Stored;
use crate::{loss, scripts};

/// How long one blocking read waits.
const BLOCK: Duration = Duration::from_secs(2);
/// How long a close, or a receive that is over, waits for a read that is about to end.
const PARTING: Duration = Duration::from_secs(5);
/// How long what was given waits here for a receive.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between attempts to reach a server that is gone: the first pause and the longest.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// The key of an event that does not match, as the script takes it.
const SKIPPED: &str = "\u{1}";

/// What a read is to bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Nothing,
    /// So many at most, until then.
    Events(usize, Timestamp),
    /// No more reads.
    End,
}

/// What the group gave us, and how much more is wanted.
#[derive(Debug)]
pub(super) struct Given {
    events: Mutex<(VecDeque<(u128, Slot)>, Timestamp)>,
    arrived: watch::Sender<u64>,
    wanted: watch::Sender<Want>,
    /// Whether a read is under way, or about to be.
    reading: AtomicBool,
    /// The connection that waits, by the server's number.
    waiting: Mutex<Option<u64>>,
    running: watch::Sender<bool>,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            events: Mutex::new((VecDeque::new(), Timestamp::from_nanos(0))),
            arrived: watch::Sender::new(0),
            wanted: watch::Sender::new(Want::Nothing),
            reading: AtomicBool::new(false),
            waiting: Mutex::default(),
            running: watch::Sender::new(false),
        }
    }
}

impl Given {
    /// Changes when something was given, or a read ended without.
    pub(super) fn arrived(&self) -> watch::Receiver<u64> {
        self.arrived.subscribe()
    }

    /// Whether a read is under way, or about to be.
    pub(super) fn is_read(&self) -> bool {
        self.reading.load(Ordering::Acquire)
    }

    /// Drops what was claimed, up to there; others may have dropped it before.
    fn claimed(&self, last: u128) {
        let mut events = self.events.lock();
        while events
            .0
            .front()
            .is_some_and(|(position, _)| *position <= last)
        {
            events.0.pop_front();
        }
    }

    /// Drops what lay here for long; whether there was anything.
    fn forget(&self, now: Timestamp) -> bool {
        let mut events = self.events.lock();
        let forgotten = !events.0.is_empty() && now.since(events.1) > PATIENCE;
        if forgotten {
            events.0.clear();
        }
        forgotten
    }

    fn want(&self, most: usize, until: Timestamp) {
        self.reading.store(true, Ordering::Release);
        self.wanted.send_replace(Want::Events(most, until));
    }

    /// Tells those who wait that the read is over.
    fn ended(&self) {
        self.reading.store(false, Ordering::Release);
        self.arrived.send_modify(|n| *n += 1);
    }
}

/// Reads and keeps for a member, where its subscription is a native group.
pub(super) fn start(inner: &Arc<Inner>) {
    if inner.stored.read().group {
        inner.given.running.send_replace(true);
        tokio::spawn(read(Arc::downgrade(inner), inner.closed.clone()));
        tokio::spawn(keep(Arc::downgrade(inner), inner.closed.clone()));
    }
}

impl Inner {
    /// Claims what was given and what is due; asks the group for more where there is neither.
    /// Reads until then, if any.
    pub(super) async fn claim_given(
        self: Arc<Self>,
        max: usize,
        until: Option<Timestamp>,
    ) -> Result<Claimed> {
        let mut place = self.place.lock().await;
        for _ in 0..ROUNDS {
            if !self.ready.lock().is_empty() {
                return Ok(Claimed::More);
            }
            let stored = self.stored.read().clone();
            match self
                .ask_given(&stored, &mut place, max.min(CLAIM), until)
                .await?
            {
                Asked::Granted => return Ok(Claimed::More),
                Asked::Nothing(next) => return Ok(Claimed::Nothing(next)),
                Asked::Again => {}
            }
        }
        Ok(Claimed::More)
    }

    async fn ask_given(
        &self,
        stored: &Stored,
        place: &mut Place,
        max: usize,
        until: Option<Timestamp>,
    ) -> Result<Asked> {
        let asked = self.wire.config.clock.now();
        let mut events = self.given_now(max, asked);
        let mut arguments = self.given_arguments(stored, &events, max);
        let mut sent = self.send(stored, place, &arguments).await?;
        if let Sent::Given(positions) = sent {
            events = self.slots(&positions, max).await?;
            arguments = self.given_arguments(stored, &events, max);
            sent = self.send(stored, place, &arguments).await?;
        }
        let Sent::Granted(granted) = sent else {
            return Ok(Asked::Again);
        };
        let Some(taken) = granted.fresh else {
            return Ok(Asked::Nothing(granted.next));
        };
        if let Some((last, _)) = taken.checked_sub(1).and_then(|at| events.get(at)) {
            self.given.claimed(*last);
        }
        if granted.epoch == 0 {
            if taken > 0 {
                return Ok(Asked::Again);
            }
            if let Some(until) = until {
                self.given.want(max, until);
            }
            return Ok(Asked::Nothing(granted.next));
        }
        let fresh = Fresh {
            events,
            scanned: place.scanned,
        };
        self.hand_out(stored, granted, fresh, asked + stored.spec.lease)
            .await?;
        Ok(Asked::Granted)
    }

    fn given_arguments(&self, stored: &Stored, events: &[(u128, Slot)], max: usize) -> Arguments {
        let mut arguments = self.who(stored).text(&self.wire.consumer).text("");
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

    /// What stands at the first of these positions; what is gone from the stream is undecodable.
    async fn slots(&self, positions: &[u128], max: usize) -> Result<Vec<(u128, Slot)>> {
        let next: Vec<u128> = positions.iter().copied().take(max).collect();
        let mut found = self.log.find(&next).await?;
        let slot = |position: u128| {
            let there = found.remove(&position);
            (position, there.unwrap_or_else(|| Slot::Raw(Bytes::new())))
        };
        Ok(next.into_iter().map(slot).collect())
    }

    /// What was given and is surely still ours. What lay here for long may have been taken over.
    fn given_now(&self, max: usize, now: Timestamp) -> Vec<(u128, Slot)> {
        let mut given = self.given.events.lock();
        if now.since(given.1) > self.wire.config.takeover / 2 {
            given.0.clear();
        }
        given.0.iter().take(max).cloned().collect()
    }

    /// Ends the read that waits, so that nothing is given to nobody.
    pub(super) async fn stop_reading(&self) {
        self.given.events.lock().0.clear();
        let mut running = self.given.running.subscribe();
        self.given.wanted.send_replace(Want::End);
        let waiting = *self.given.waiting.lock();
        if let Some(number) = waiting {
            let mut unblock = redis::cmd("CLIENT");
            unblock.arg("UNBLOCK").arg(number);
            // Where that is forbidden the read ends by itself, and what it got is taken over.
            let _ = self.wire.try_run::<Value>(&unblock).await;
        }
        tokio::select! {
            _ = running.wait_for(|running| !running) => {}
            () = self.wire.config.clock.sleep(PARTING) => {}
        }
    }

    /// Waits for the end of a read, which is near.
    pub(super) async fn read_ended(&self, arrived: &mut watch::Receiver<u64>) {
        tokio::select! {
            _ = arrived.changed() => {}
            () = self.wire.config.clock.sleep(PARTING) => {}
        }
    }

    async fn read_once(
        &self,
        connection: &mut MultiplexedConnection,
        most: usize,
        until: Timestamp,
    ) -> Result<()> {
        let mut command = redis::cmd("XREADGROUP");
        command
            .arg("GROUP")
            .arg(self.name.as_str())
            .arg(&self.wire.consumer);
        command.arg("COUNT").arg(most.min(CLAIM));
        let asked = self.wire.config.clock.now();
        let block = until.since(asked).min(BLOCK).as_millis().max(1);
        command.arg("BLOCK").arg(block.to_string());
        command
            .arg("STREAMS")
            .arg(&self.wire.config.stream)
            .arg(">");
        let limit = BLOCK + self.wire.config.response_timeout;
        let answer = tokio::select! {
            answer = command.query_async::<Streams>(connection) => answer.map_err(map)?,
            () = self.wire.config.clock.sleep(limit) => {
                return Err(Error::new(ErrorKind::Unavailable, "redis does not answer"));
            }
        };
        let entries = answer
            .into_iter()
            .flatten()
            .flat_map(|(_, entries)| entries);
        let frames = self.log.frames(entries);
        let events = frames.iter().flat_map(|frame| frame.after(0));
        let events = events.map(|(position, slot)| (position, slot.clone()));
        // An ordered one is claimed in the order of the log, whoever was given it.
        if !self.stored.read().spec.ordered {
            let mut given = self.given.events.lock();
            given.0.extend(events);
            given.1 = asked.max(self.wire.config.clock.now() - BLOCK);
        }
        self.given.ended();
        Ok(())
    }

    /// Keeps what is ours from growing idle, and takes over what others left.
    /// What a broken connection or a close left unclaimed comes back at once if `unclaimed`.
    pub(super) async fn keep_group(&self, unclaimed: bool) -> Result<()> {
        let arguments = Arguments::default().text(self.name.as_str());
        let arguments = arguments.text(&self.wire.consumer).flag(unclaimed);
        let answer = self.wire.script(&scripts::KEEP, &arguments).await?;
        if answer == Value::Nil {
            return Ok(());
        }
        let mut answer = Answer::new(answer, "keep")?;
        let (restored, taken): (u64, u64) = (answer.next()?, answer.next()?);
        let (gone, lost): (u64, u64) = (answer.next()?, answer.next()?);
        let (stream, group) = (&self.wire.config.stream, &self.name);
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

/// Reads whenever a receive waits.
async fn read(member: Weak<Inner>, mut closed: watch::Receiver<bool>) {
    let mut pause = RECONNECT.0;
    let mut broke = false;
    let Some(mut wanted) = member.upgrade().map(|inner| inner.given.wanted.subscribe()) else {
        return;
    };
    loop {
        let Some(clock) = member
            .upgrade()
            .map(|inner| inner.wire.config.clock.clone())
        else {
            return;
        };
        let ended = tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Ok(()),
            ended = read_on(&member, &mut wanted, &mut pause, &mut broke) => ended,
        };
        let Some(inner) = member.upgrade() else {
            return;
        };
        *inner.given.waiting.lock() = None;
        inner.given.ended();
        let Err(error) = ended else {
            inner.given.running.send_replace(false);
            return;
        };
        tracing::warn!(group = %inner.name, %error, "cannot read from the consumer group");
        // Perhaps it is gone, and the stream with it.
        if let Err(error) = loss::look(&inner.wire, &inner.log).await {
            tracing::debug!(group = %inner.name, %error, "cannot look whether events are gone");
        }
        broke = true;
        drop(inner);
        clock.sleep(pause).await;
        pause = (pause * 2).min(RECONNECT.1);
    }
}

/// Reads on one connection until it breaks, or until the member closes. What a read that broke was
/// given and nobody heard of comes back first.
async fn read_on(
    member: &Weak<Inner>,
    wanted: &mut watch::Receiver<Want>,
    pause: &mut Duration,
    broke: &mut bool,
) -> Result<()> {
    if *broke && let Some(inner) = member.upgrade() {
        inner.keep_group(true).await?;
        *broke = false;
    }
    let mut connection: Option<MultiplexedConnection> = None;
    loop {
        let want = wanted.wait_for(|want| *want != Want::Nothing).await;
        let Ok(Want::Events(most, until)) = want.map(|want| *want) else {
            return Ok(());
        };
        let Some(inner) = member.upgrade() else {
            return Ok(());
        };
        inner.given.wanted.send_if_modified(|want| {
            let unchanged = *want == Want::Events(most, until);
            if unchanged {
                *want = Want::Nothing;
            }
            unchanged
        });
        if !inner.given.events.lock().0.is_empty() {
            inner.given.ended();
            continue;
        }
        let connection = match &mut connection {
            Some(there) => there,
            none => {
                let mut made = inner.wire.blocking().await?;
                let number = redis::cmd("CLIENT").arg("ID").query_async(&mut made).await;
                *inner.given.waiting.lock() = number.ok();
                none.insert(made)
            }
        };
        inner.read_once(connection, most, until).await?;
        *pause = RECONNECT.0;
    }
}

async fn keep(member: Weak<Inner>, mut closed: watch::Receiver<bool>) {
    loop {
        let Some(inner) = member.upgrade() else {
            return;
        };
        // What nobody came for in time goes to others.
        let forgotten = inner.given.forget(inner.wire.config.clock.now());
        if let Err(error) = inner.keep_group(forgotten).await {
            tracing::warn!(group = %inner.name, %error, "cannot look after the consumer group");
        }
        let clock = inner.wire.config.clock.clone();
        let pause = inner.wire.config.takeover / 6;
        drop(inner);
        tokio::select! {
            _ = closed.wait_for(|closed| *closed) => return,
            () = clock.sleep(pause) => {}
        }
    }
}
