//! Publishing: whatever gathered while the last flush ran becomes the next frame. One task does it,
//! so concurrent callers share round trips and the server's flushes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use fanfare_core::backend::Published;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::position::Position;
use fanfare_core::timestamp::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use crate::connect::{Answer, Arguments, Wire};
use crate::error::{map_write, unexpected};
use crate::place::{of_entry, of_event};
use crate::retention::Retention;
use crate::{frame, scripts};

/// Between attempts to reach a server that is gone.
const RETRY: std::time::Duration = std::time::Duration::from_millis(100);

/// One event on its way into a frame.
struct Wanted {
    event: Event,
    identity: Vec<u8>,
    /// Where each event has an entry of its own.
    entry: Option<Vec<Vec<u8>>>,
    answer: oneshot::Sender<Result<Published>>,
}

/// The way into the stream.
#[derive(Debug)]
pub(crate) struct Publisher {
    queue: mpsc::Sender<Vec<Wanted>>,
    flushing: watch::Receiver<bool>,
    wire: Arc<Wire>,
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.event.fmt(f)
    }
}

impl Publisher {
    pub(crate) fn start(
        wire: Arc<Wire>,
        retention: Arc<Retention>,
        closed: watch::Receiver<bool>,
    ) -> Self {
        let (queue, wanted) = mpsc::channel(wire.config.queue.max(1));
        let flusher = Flusher {
            wire: wire.clone(),
            retention,
        };
        let (running, flushing) = watch::channel(true);
        tokio::spawn(async move {
            flusher.run(wanted, closed).await;
            running.send_replace(false);
        });
        Self {
            queue,
            flushing,
            wire,
        }
    }

    /// Waits until everything queued is flushed, after the close.
    pub(crate) async fn ended(&self) {
        // An error means that the task is gone: it has ended too.
        let _ = self.flushing.clone().wait_for(|running| !running).await;
    }

    /// Answers per event, once each is stored.
    pub(crate) async fn publish(
        &self,
        events: &[Event],
        most: usize,
    ) -> Result<Vec<Result<Published>>> {
        let mut wanted = Vec::with_capacity(events.len());
        let mut answers = Vec::with_capacity(events.len());
        for event in events {
            if event.bytes().len() > most {
                let error = Error::new(ErrorKind::TooLarge, format!("data above {most} bytes"));
                answers.push(Err(error));
                continue;
            }
            let entry = match self.wire.config.form.entry(event) {
                Ok(entry) => entry,
                Err(error) => {
                    answers.push(Err(error));
                    continue;
                }
            };
            let (answer, answered) = oneshot::channel();
            wanted.push(Wanted {
                entry,
                identity: frame::identity(event),
                event: event.clone(),
                answer,
            });
            answers.push(Ok(answered));
        }
        if !wanted.is_empty() {
            self.queue.send(wanted).await.map_err(|_| closed())?;
        }
        let mut results = Vec::with_capacity(answers.len());
        for answer in answers {
            results.push(match answer {
                Ok(answered) => answered.await.unwrap_or_else(|_| Err(closed())),
                Err(error) => Err(error),
            });
        }
        Ok(results)
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the backend is closed")
}

struct Flusher {
    wire: Arc<Wire>,
    retention: Arc<Retention>,
}

impl Flusher {
    async fn run(self, mut wanted: mpsc::Receiver<Vec<Wanted>>, mut closed: watch::Receiver<bool>) {
        let mut waiting: std::collections::VecDeque<Wanted> = std::collections::VecDeque::new();
        loop {
            if waiting.is_empty() {
                tokio::select! {
                    biased;
                    more = wanted.recv() => match more {
                        Some(more) => waiting.extend(more),
                        None => return,
                    },
                    _ = closed.wait_for(|closed| *closed) => {
                        // Flush what was queued before the close, then end.
                        wanted.close();
                        if wanted.is_empty() {
                            return;
                        }
                        continue;
                    }
                }
            }
            while let Ok(more) = wanted.try_recv() {
                waiting.extend(more);
                if waiting.len() >= self.wire.config.frame_events {
                    break;
                }
            }
            let batch = self.fill(&mut waiting);
            self.flush(batch).await;
        }
    }

    /// The next frame's events.
    fn fill(&self, waiting: &mut std::collections::VecDeque<Wanted>) -> Vec<Wanted> {
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
                    for (wanted, position) in remove(&mut fresh, &places) {
                        tell_all(wanted, &mut copies, Some(Position(position)), true);
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
        let answer = if own_entries {
            let arguments = self.entries(fresh);
            self.wire.try_script(&scripts::ENTRIES, &arguments).await
        } else {
            let arguments = self.frame(fresh);
            self.wire.try_script(&scripts::PUBLISH, &arguments).await
        };
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
                let mut places = BTreeMap::new();
                while let Some(place) = answer.next_if_any::<usize>()? {
                    let first = of_event(&answer.next::<String>()?);
                    places.insert(place, first.ok_or_else(|| unexpected("publish"))?);
                }
                Ok(Appended::Duplicates(places))
            }
            "full" => Ok(Appended::Full),
            _ => Err(unexpected("publish")),
        }
    }

    fn frame(&self, fresh: &[Wanted]) -> Arguments {
        let config = &self.wire.config;
        let events: Vec<Event> = fresh.iter().map(|wanted| wanted.event.clone()).collect();
        let frame = frame::encode(&events);
        let mut arguments = Arguments::default()
            .number(config.dedup_window.as_micros())
            .number(config.dedup_ids)
            .number(config.max_bytes)
            .number(frame.len())
            .bytes(frame);
        for wanted in fresh {
            arguments.push(wanted.identity.clone());
        }
        arguments
    }

    fn entries(&self, fresh: &[Wanted]) -> Arguments {
        let config = &self.wire.config;
        let mut arguments = Arguments::default()
            .number(config.dedup_window.as_micros())
            .number(config.dedup_ids)
            .number(fresh.len());
        for wanted in fresh {
            let entry = wanted.entry.as_deref().unwrap_or_default();
            arguments = arguments.bytes(wanted.identity.clone()).number(entry.len());
            for part in entry {
                arguments.push(part.clone());
            }
        }
        arguments
    }
}

/// Answers for an event and for its copies in the same batch. A caller that is gone needs no answer.
fn tell_all(wanted: Wanted, copies: &mut Copies, position: Option<Position>, duplicate: bool) {
    let more = copies.remove(&wanted.identity).unwrap_or_default();
    let _ = wanted.answer.send(Ok(Published {
        position,
        duplicate,
    }));
    for copy in more {
        let _ = copy.answer.send(Ok(Published {
            position,
            duplicate: true,
        }));
    }
}

/// Takes the events at these places out.
fn remove(fresh: &mut Vec<Wanted>, places: &BTreeMap<usize, u128>) -> Vec<(Wanted, u128)> {
    let mut known = Vec::with_capacity(places.len());
    for (at, wanted) in std::mem::take(fresh).into_iter().enumerate() {
        match places.get(&at) {
            Some(first) => known.push((wanted, *first)),
            None => fresh.push(wanted),
        }
    }
    known
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
    /// Not: these, by their place in the frame, were there before, and where.
    Duplicates(BTreeMap<usize, u128>),
    Full,
}

type Copies = HashMap<Vec<u8>, Vec<Wanted>>;

/// The first of each event, and the others by identity.
fn tell_copies(batch: Vec<Wanted>) -> (Vec<Wanted>, Copies) {
    let mut seen = std::collections::HashSet::new();
    let mut copies: Copies = HashMap::new();
    let mut fresh = Vec::with_capacity(batch.len());
    for wanted in batch {
        if seen.insert(wanted.identity.clone()) {
            fresh.push(wanted);
        } else {
            copies
                .entry(wanted.identity.clone())
                .or_default()
                .push(wanted);
        }
    }
    (fresh, copies)
}
