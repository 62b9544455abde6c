//! Publishing: whatever gathered while the last flush ran becomes one statement. One task does it, so
//! concurrent callers share round trips and the server's flushes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fanfare_core::backend::Published;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::id::EventId;
use fanfare_core::position::Position;
use fanfare_core::timestamp::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::unexpected;
use crate::log::Log;
use crate::retention::Retention;
use crate::row::get;
use crate::rows::{APPEND, Rows};

/// Between attempts to reach a server that is gone.
const RETRY: Duration = Duration::from_millis(100);

/// One event on its way into the log.
#[derive(Debug)]
struct Wanted {
    event: Event,
    answer: oneshot::Sender<Result<Published>>,
}

/// The way into the log.
#[derive(Debug)]
pub(crate) struct Publisher {
    queue: mpsc::Sender<Vec<Wanted>>,
    flushing: watch::Receiver<bool>,
}

impl Publisher {
    pub(crate) fn start(
        log: Arc<Log>,
        retention: Arc<Retention>,
        closed: watch::Receiver<bool>,
    ) -> Self {
        let (queue, wanted) = mpsc::channel(log.database.config.queue.max(1));
        let flusher = Flusher { log, retention };
        let (running, flushing) = watch::channel(true);
        tokio::spawn(async move {
            flusher.run(wanted, closed).await;
            running.send_replace(false);
        });
        Self { queue, flushing }
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
            let (answer, answered) = oneshot::channel();
            wanted.push(Wanted {
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
    log: Arc<Log>,
    retention: Arc<Retention>,
}

impl Flusher {
    async fn run(self, mut wanted: mpsc::Receiver<Vec<Wanted>>, mut closed: watch::Receiver<bool>) {
        let mut waiting = VecDeque::new();
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
                if waiting.len() >= self.log.database.config.flush_events {
                    break;
                }
            }
            let batch = self.fill(&mut waiting);
            self.flush(batch).await;
        }
    }

    /// The next flush.
    fn fill(&self, waiting: &mut VecDeque<Wanted>) -> Vec<Wanted> {
        let config = &self.log.database.config;
        let (mut batch, mut bytes): (Vec<Wanted>, usize) = (Vec::new(), 0);
        while let Some(next) = waiting.front() {
            bytes += next.event.size();
            let full = batch.len() >= config.flush_events || bytes > config.flush_bytes;
            if full && !batch.is_empty() {
                break;
            }
            batch.extend(waiting.pop_front());
        }
        batch
    }

    async fn flush(&self, batch: Vec<Wanted>) {
        let (fresh, mut copies) = tell_copies(batch);
        let deadline =
            self.log.database.config.clock.now() + self.log.database.config.publish_timeout;
        match self.append(&fresh, deadline).await {
            Ok(appended) => {
                self.log.published.notify_one();
                for (wanted, published) in fresh.into_iter().zip(appended) {
                    tell(wanted, &mut copies, published);
                }
            }
            Err(error) => {
                let copies = copies.into_values().flatten();
                for wanted in fresh.into_iter().chain(copies) {
                    let _ = wanted.answer.send(Err(error.duplicate()));
                }
            }
        }
    }

    /// One statement; waits for a server that cannot be reached.
    async fn append(&self, fresh: &[Wanted], deadline: Timestamp) -> Result<Vec<Published>> {
        let events: Vec<&Event> = fresh.iter().map(|wanted| &wanted.event).collect();
        let rows = Rows::of(&events);
        let bytes = events.iter().map(|event| event.size() as u64).sum();
        loop {
            let error = match self.append_once(&rows, bytes).await {
                Ok(published) if published.len() == fresh.len() => return Ok(published),
                Ok(_) => unexpected("publish"),
                Err(error) => error,
            };
            let clock = &self.log.database.config.clock;
            if error.kind() != ErrorKind::Unavailable || clock.now() + RETRY >= deadline {
                return Err(error.during("publish"));
            }
            clock.sleep(RETRY).await;
        }
    }

    async fn append_once(&self, rows: &Rows<'_>, bytes: u64) -> Result<Vec<Published>> {
        self.retention.take(bytes).await?;
        let answer = self.log.database.publish(APPEND, &rows.params()).await?;
        let row = answer.first().ok_or_else(|| unexpected("publish"))?;
        published(get(row, 0)?, get(row, 1)?)
    }
}

/// What `ff.append` answered.
pub(crate) fn published(
    positions: Vec<Option<i64>>,
    duplicates: Option<Vec<bool>>,
) -> Result<Vec<Published>> {
    let duplicates = duplicates.unwrap_or_else(|| vec![false; positions.len()]);
    let both = positions.into_iter().zip(duplicates);
    let published = both.map(|(position, duplicate)| {
        // The first of a duplicate may have been rolled back to a savepoint meanwhile.
        let position = position.map(u128::try_from).transpose();
        let position = position.map_err(|_| unexpected("publish"))?;
        Ok(Published {
            position: position.map(Position),
            duplicate,
        })
    });
    published.collect()
}

/// Answers for an event and for its copies in the same flush. A caller that is gone needs no answer.
fn tell(wanted: Wanted, copies: &mut Copies, published: Published) {
    let more = copies.remove(&identity(&wanted.event)).unwrap_or_default();
    let _ = wanted.answer.send(Ok(published));
    for copy in more {
        let _ = copy.answer.send(Ok(Published {
            duplicate: true,
            ..published
        }));
    }
}

type Copies = HashMap<(Arc<str>, EventId), Vec<Wanted>>;

fn identity(event: &Event) -> (Arc<str>, EventId) {
    (event.source().clone(), event.id().clone())
}

/// The first of each event, and the others by identity.
fn tell_copies(batch: Vec<Wanted>) -> (Vec<Wanted>, Copies) {
    let mut seen = std::collections::HashSet::with_capacity(batch.len());
    let mut copies: Copies = HashMap::new();
    let mut fresh = Vec::with_capacity(batch.len());
    for wanted in batch {
        if seen.insert(identity(&wanted.event)) {
            fresh.push(wanted);
        } else {
            copies
                .entry(identity(&wanted.event))
                .or_default()
                .push(wanted);
        }
    }
    (fresh, copies)
}
