//! Sending frames: a few are on their way at once, so that the server works while the next ones are
//! made. One caller's publishes keep their order: what was published together and does not fit one
//! frame waits until the frames before are answered.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fanfare_core::backend::Published;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::position::Position;
use fanfare_core::timestamp::Timestamp;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::Cmd;
use tokio::sync::{mpsc, watch};

use super::Wanted;
use crate::connect::{Answer, Wire};
use crate::error::{map_write, unexpected};
use crate::log::Log;
use crate::place::of_entry;
use crate::retention::Retention;
use crate::{frame, scripts};

/// Between attempts to reach a server that is gone.
const RETRY: Duration = Duration::from_millis(100);
/// The most frames on their way at once.
const IN_FLIGHT: usize = 3;
/// How many events are worth a frame while another is on its way.
const WORTH: usize = 16;

pub(super) struct Flusher {
    pub(super) wire: Arc<Wire>,
    pub(super) log: Arc<Log>,
    pub(super) retention: Arc<Retention>,
}

impl Flusher {
    /// Until the close, and until everything queued before it is flushed.
    pub(super) async fn run(
        self,
        mut wanted: mpsc::Receiver<Vec<Wanted>>,
        mut closed: watch::Receiver<bool>,
    ) {
        let most = self.wire.config.frame_events;
        let mut waiting: VecDeque<Wanted> = VecDeque::new();
        let mut flights = FuturesUnordered::new();
        let mut open = true;
        loop {
            while waiting.len() < most
                && let Ok(more) = wanted.try_recv()
            {
                waiting.extend(more);
            }
            while goes_out(&waiting, flights.len()) {
                flights.push(self.flush(self.fill(&mut waiting)));
            }
            if flights.is_empty() && !open && wanted.is_empty() {
                return;
            }
            tokio::select! {
                biased;
                Some(()) = flights.next(), if !flights.is_empty() => {}
                more = wanted.recv(), if open && waiting.len() < most => match more {
                    Some(more) => waiting.extend(more),
                    None => open = false,
                },
                _ = closed.wait_for(|closed| *closed), if open => {
                    wanted.close();
                    open = false;
                }
            }
        }
    }

    /// The next frame's events.
    fn fill(&self, waiting: &mut VecDeque<Wanted>) -> Vec<Wanted> {
        let config = &self.wire.config;
        let (mut batch, mut bytes): (Vec<Wanted>, usize) = (Vec::new(), 0);
        while let Some(next) = waiting.front() {
            bytes += next.event.size();
            let full = batch.len() >= config.frame_events || bytes > config.frame_bytes;
            if full && !batch.is_empty() {
                break;
            }
            batch.extend(waiting.pop_front());
        }
        batch
    }

    async fn flush(&self, batch: Vec<Wanted>) {
        let (mut fresh, mut copies) = tell_copies(batch);
        let deadline = self.wire.config.clock.now() + self.wire.config.publish_timeout;
        while !fresh.is_empty() {
            match self.append(&fresh, deadline).await {
                Ok(Appended::At(positions)) => {
                    for (wanted, position) in fresh.drain(..).zip(positions) {
                        tell_all(wanted, &mut copies, Some(Position(position)), false);
                    }
                }
                Ok(Appended::Duplicates(places)) => {
                    let known = remove(&mut fresh, &places);
                    let identities = known.iter().map(|wanted| &wanted.identity[..]);
                    let firsts = self.log.firsts(identities.collect()).await;
                    for wanted in known {
                        let first = firsts.get(&wanted.identity).copied();
                        tell_all(wanted, &mut copies, first.map(Position), true);
                    }
                }
                Ok(Appended::Full) => fail(&mut fresh, &mut copies, &full()),
                Err(error) => fail(&mut fresh, &mut copies, &error),
            }
        }
    }

    /// One frame; waits for a server that cannot be reached, and makes room once when it is full.
    async fn append(&self, fresh: &[Wanted], deadline: Timestamp) -> Result<Appended> {
        let mut trimmed = false;
        loop {
            let error = match self.append_once(fresh).await {
                Ok(Appended::Full) if !trimmed => {
                    trimmed = true;
                    self.retention.make_room().await?;
                    continue;
                }
                Ok(appended) => return Ok(appended),
                Err(error) => error,
            };
            let clock = &self.wire.config.clock;
            if error.kind() != ErrorKind::Unavailable || clock.now() + RETRY >= deadline {
                return Err(error.during("publish"));
            }
            clock.sleep(RETRY).await;
        }
    }

    async fn append_once(&self, fresh: &[Wanted]) -> Result<Appended> {
        let own_entries = fresh.iter().all(|wanted| wanted.entry.is_some());
        let (script, command) = if own_entries {
            (&scripts::ENTRIES, self.entries(fresh))
        } else {
            (&scripts::PUBLISH, self.frame(fresh))
        };
        let answer = self.wire.try_call(script, &command).await;
        let mut answer = Answer::new(answer.map_err(map_write)?, "publish")?;
        match answer.next::<String>()?.as_str() {
            "appended" => {
                let mut positions = Vec::with_capacity(fresh.len());
                while let Some(id) = answer.next_if_any::<String>()? {
                    positions.push(of_entry(&id).ok_or_else(|| unexpected("publish"))?);
                }
                if let [head] = positions[..] {
                    positions.extend((1..fresh.len()).map(|index| head | index as u128));
                }
                Ok(Appended::At(positions))
            }
            "duplicate" => {
                let mut places = Vec::new();
                while let Some(place) = answer.next_if_any::<usize>()? {
                    places.push(place);
                }
                places.sort_unstable();
                Ok(Appended::Duplicates(places))
            }
            "full" => Ok(Appended::Full),
            _ => Err(unexpected("publish")),
        }
    }

    fn frame(&self, fresh: &[Wanted]) -> Cmd {
        let config = &self.wire.config;
        let frame = frame::encode_all(fresh.iter().map(|wanted| &wanted.event));
        let mut command = self.wire.call(&scripts::PUBLISH);
        command
            .arg(config.dedup_window.as_micros().to_string())
            .arg(config.dedup_ids)
            .arg(config.max_bytes)
            .arg(frame.len())
            .arg(frame);
        for wanted in fresh {
            command.arg(&wanted.identity);
        }
        command
    }

    fn entries(&self, fresh: &[Wanted]) -> Cmd {
        let config = &self.wire.config;
        let mut command = self.wire.call(&scripts::ENTRIES);
        command
            .arg(config.dedup_window.as_micros().to_string())
            .arg(config.dedup_ids)
            .arg(fresh.len());
        for wanted in fresh {
            let entry = wanted.entry.as_deref().unwrap_or_default();
            command.arg(&wanted.identity).arg(entry.len()).arg(entry);
        }
        command
    }
}

/// Whether the next frame is sent although others are on their way.
fn goes_out(waiting: &VecDeque<Wanted>, flights: usize) -> bool {
    let Some(next) = waiting.front() else {
        return false;
    };
    flights == 0 || (flights < IN_FLIGHT && waiting.len() >= WORTH && !next.continues)
}

/// Answers for an event and for its copies in the same batch. A caller that is gone needs no answer.
fn tell_all(wanted: Wanted, copies: &mut Copies, position: Option<Position>, duplicate: bool) {
    let more = if copies.is_empty() {
        None
    } else {
        copies.remove(&wanted.identity)
    };
    let _ = wanted.answer.send(Ok(Published {
        position,
        duplicate,
    }));
    for copy in more.into_iter().flatten() {
        let _ = copy.answer.send(Ok(Published {
            position,
            duplicate: true,
        }));
    }
}

/// Takes the events at these ascending places out.
fn remove(fresh: &mut Vec<Wanted>, places: &[usize]) -> Vec<Wanted> {
    let all = std::mem::take(fresh).into_iter().enumerate();
    let (known, new): (Vec<_>, Vec<_>) = all.partition(|(at, _)| places.binary_search(at).is_ok());
    fresh.extend(new.into_iter().map(|(_, wanted)| wanted));
    known.into_iter().map(|(_, wanted)| wanted).collect()
}

fn full() -> Error {
    Error::new(ErrorKind::Full, "the stream is full of unsettled events")
}

fn fail(fresh: &mut Vec<Wanted>, copies: &mut Copies, error: &Error) {
    let others = copies.drain().flat_map(|(_, more)| more);
    for wanted in fresh.drain(..).chain(others) {
        let _ = wanted.answer.send(Err(error.duplicate()));
    }
}

enum Appended {
    /// At these positions, one each.
    At(Vec<u128>),
    /// Not: these were there before, by their place in the frame.
    Duplicates(Vec<usize>),
    Full,
}

type Copies = HashMap<Vec<u8>, Vec<Wanted>>;

/// The first of each event, and the others by identity.
fn tell_copies(batch: Vec<Wanted>) -> (Vec<Wanted>, Copies) {
    let mut seen = HashSet::with_capacity(batch.len());
    let again = batch
        .iter()
        .map(|wanted| !seen.insert(&wanted.identity[..]));
    let again: Vec<bool> = again.collect();
    let mut copies = Copies::new();
    if !again.contains(&true) {
        return (batch, copies);
    }
    let mut fresh = Vec::with_capacity(batch.len());
    for (wanted, again) in batch.into_iter().zip(again) {
        if again {
            let same = copies.entry(wanted.identity.clone()).or_default();
            same.push(wanted);
        } else {
            fresh.push(wanted);
        }
    }
    (fresh, copies)
}
