//! Reading from a native consumer group, while a receive waits: what Redis gives lies here until it is
//! claimed. Claiming is [`super`]'s.

use std::collections::VecDeque;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fanfare_core::error::Result;
use fanfare_core::timestamp::Timestamp;
use fanfare_fleet::{Engine, Page};
use parking_lot::Mutex;
use redis::Value;
use tokio::sync::watch;

use super::{Events, Group};
use crate::connect::Blocking;
use crate::frame::Slot;
use crate::log::Streams;
use crate::loss;

/// How long one blocking read waits.
const BLOCK: Duration = Duration::from_secs(2);
/// The most deliveries of one read.
const READ: usize = 1_000;
/// How long a close, or a receive that is over, waits for a read that is about to end.
const PARTING: Duration = Duration::from_secs(5);
/// How long what was given waits here for a receive.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between attempts to reach a server that is gone: the first pause and the longest.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

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
    /// Whether a read is under way.
    reading: AtomicBool,
    /// Whether it is not known when there will be another.
    broken: AtomicBool,
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
            broken: AtomicBool::new(false),
            waiting: Mutex::default(),
            running: watch::Sender::new(true),
        }
    }
}

impl Given {
    /// Changes when something was given, or a read ended without.
    pub(super) fn arrived(&self) -> watch::Receiver<u64> {
        self.arrived.subscribe()
    }

    /// Whether a read is under way, or about to be.
    fn is_read(&self) -> bool {
        let wanted = matches!(*self.wanted.borrow(), Want::Events(..));
        let is_read = wanted || self.reading.load(Ordering::Acquire);
        is_read && !self.broken.load(Ordering::Acquire)
    }

    /// Drops what was claimed, up to there; others may have dropped it before.
    pub(super) fn claimed(&self, last: u128) {
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
    pub(super) fn forget(&self, now: Timestamp) -> bool {
        let mut events = self.events.lock();
        let forgotten = !events.0.is_empty() && now.since(events.1) > PATIENCE;
        if forgotten {
            events.0.clear();
        }
        forgotten
    }

    pub(super) fn want(&self, most: usize, until: Timestamp) {
        self.wanted.send_if_modified(|want| {
            let goes_on = *want != Want::End;
            if goes_on {
                *want = Want::Events(most, until);
            }
            goes_on
        });
    }

    /// A read begins that brings what was wanted; what is wanted anew is another's.
    fn begins(&self, wanted: Want) {
        self.reading.store(true, Ordering::Release);
        self.wanted.send_if_modified(|want| {
            let unchanged = *want == wanted;
            if unchanged {
                *want = Want::Nothing;
            }
            unchanged
        });
    }

    /// Tells those who wait that the read is over.
    fn ended(&self) {
        self.reading.store(false, Ordering::Release);
        self.arrived.send_modify(|n| *n += 1);
    }
}

impl Group {
    /// Waits for the end of a read that is under way; whether one ended since `arrived` was last looked at.
    pub(super) async fn read_ended(&self, arrived: &mut watch::Receiver<u64>) -> bool {
        let ended = async {
            let mut any = arrived.has_changed().unwrap_or(false);
            while self.given.is_read() {
                any = true;
                if arrived.changed().await.is_err() {
                    break;
                }
            }
            any
        };
        tokio::select! {
            any = ended => any,
            () = self.desk().clock().sleep(PARTING) => true,
        }
    }

    /// What was given and is surely still ours. What lay here for long may have been taken over.
    pub(super) fn given_now(&self, max: usize, now: Timestamp) -> Events {
        let mut given = self.given.events.lock();
        if now.since(given.1) > self.desk().wire.config.takeover / 2 {
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
            let _ = self.desk().wire.try_run::<Value>(&unblock).await;
        }
        tokio::select! {
            _ = running.wait_for(|running| !running) => {}
            () = self.desk().wire.config.clock.sleep(PARTING) => {}
        }
    }

    async fn read_once(
        &self,
        connection: &mut Blocking,
        most: usize,
        until: Timestamp,
    ) -> Result<()> {
        let mut command = redis::cmd("XREADGROUP");
        command
            .arg("GROUP")
            .arg(self.seat.name().as_str())
            .arg(&self.desk().wire.consumer);
        command.arg("COUNT").arg(most.min(READ));
        let asked = self.desk().wire.config.clock.now();
        let block = until.since(asked).min(BLOCK).as_millis().max(1);
        command.arg("BLOCK").arg(block.to_string());
        command
            .arg("STREAMS")
            .arg(&self.desk().wire.config.stream)
            .arg(">");
        let answer: Streams = connection.read(&command, BLOCK).await?;
        let entries = answer
            .into_iter()
            .flatten()
            .flat_map(|(_, entries)| entries);
        let frames = self.desk().log.frames(entries);
        let events = frames.iter().flat_map(|frame| frame.after(0));
        let events = events.map(|(position, slot)| (position, slot.clone()));
        // An ordered one is claimed in the order of the log, whoever was given it.
        if !self.seat.stored().spec.ordered {
            let mut given = self.given.events.lock();
            given.0.extend(events);
            given.1 = asked.max(self.desk().wire.config.clock.now() - BLOCK);
        }
        self.given.ended();
        Ok(())
    }
}

/// Reads whenever a receive waits.
pub(super) async fn read(member: Weak<Group>, mut closed: watch::Receiver<bool>) {
    let mut pause = RECONNECT.0;
    let Some(mut wanted) = member.upgrade().map(|group| group.given.wanted.subscribe()) else {
        return;
    };
    loop {
        let Some(clock) = member
            .upgrade()
            .map(|group| group.desk().wire.config.clock.clone())
        else {
            return;
        };
        let ended = tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => Ok(()),
            ended = read_on(&member, &mut wanted, &mut pause) => ended,
        };
        let Some(group) = member.upgrade() else {
            return;
        };
        *group.given.waiting.lock() = None;
        group.given.broken.store(ended.is_err(), Ordering::Release);
        group.given.ended();
        let Err(error) = ended else {
            group.given.running.send_replace(false);
            return;
        };
        tracing::warn!(group = %group.seat.name(), %error, "cannot read from the consumer group");
        // Perhaps it is gone, and the stream with it.
        if let Err(error) = loss::look(&group.desk().wire, &group.desk().log).await {
            tracing::debug!(group = %group.seat.name(), %error, "cannot look whether events are gone");
        }
        drop(group);
        clock.sleep(pause).await;
        pause = (pause * 2).min(RECONNECT.1);
    }
}

/// Reads on one connection until it breaks, or until the member closes. What a read that broke was
/// given and nobody heard of comes back first.
async fn read_on(
    member: &Weak<Group>,
    wanted: &mut watch::Receiver<Want>,
    pause: &mut Duration,
) -> Result<()> {
    if let Some(group) = member.upgrade()
        && group.given.broken.load(Ordering::Acquire)
    {
        group.keep_group(true).await?;
        group.given.broken.store(false, Ordering::Release);
    }
    let mut connection: Option<Blocking> = None;
    loop {
        let want = wanted.wait_for(|want| *want != Want::Nothing).await;
        let want = want.map_or(Want::End, |want| *want);
        let Want::Events(most, until) = want else {
            return Ok(());
        };
        let Some(group) = member.upgrade() else {
            return Ok(());
        };
        group.given.begins(want);
        if !group.given.events.lock().0.is_empty() {
            group.given.ended();
            continue;
        }
        let connection = match &mut connection {
            Some(there) => there,
            none => {
                let mut made = group.desk().wire.blocking().await?;
                let number = made
                    .read(redis::cmd("CLIENT").arg("ID"), Duration::ZERO)
                    .await;
                *group.given.waiting.lock() = number.ok();
                none.insert(made)
            }
        };
        group.read_once(connection, most, until).await?;
        *pause = RECONNECT.0;
    }
}
