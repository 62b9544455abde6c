//! Publishing: whatever gathers while flushes are on their way becomes the next one, so that concurrent
//! callers share round trips and the server's own flushes. A caller that is alone sends for itself.
//! What a flush is made of, and how it is sent, is the engine's.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::backend::Published;
use fanfare_core::clock::Clock;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::timestamp::Timestamp;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot, watch};

use crate::onward::{Begun, Onward};

/// Between attempts to reach a server that is gone.
const RETRY: Duration = Duration::from_millis(100);
/// How many events are worth a flush while another is on its way.
const WORTH: usize = 16;

/// Where flushes go.
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// An event as it is sent.
    type Item: Send + Sync + 'static;
    /// What only items of the same event have in common.
    type Identity<'a>: Eq + Hash;

    /// Time here.
    fn clock(&self) -> &Clock;

    /// Makes an event ready, in the caller's task; refuses what cannot be sent.
    fn prepare(&self, event: &Event) -> Result<Self::Item>;

    /// What makes two items the same event.
    fn identity<'a>(&self, item: &'a Self::Item) -> Self::Identity<'a>;

    /// About the bytes that it takes in a flush.
    fn size(&self, item: &Self::Item) -> usize;

    /// Stores items, no two of them the same, and answers for each in order; with none for what was
    /// left out because others were known before: that comes again. After
    /// [`Unavailable`](ErrorKind::Unavailable), which means that nothing was stored, all come again.
    async fn append(&self, items: &[&Self::Item]) -> Result<Vec<Option<Published>>>;
}

/// How publishes share flushes.
#[derive(Debug, Clone, Copy)]
pub struct Flushing {
    /// The most publishes that wait for a flush; more wait for room.
    pub queue: usize,
    /// The most events of a flush.
    pub events: usize,
    /// The most bytes of a flush of several events.
    pub bytes: usize,
    /// The most flushes on their way at once; more than one only where they arrive in order.
    pub in_flight: usize,
    /// How long a flush waits for a server that cannot be reached.
    pub timeout: Duration,
}

/// The way into the log.
pub struct Publisher<S: Sink> {
    shared: Arc<Shared<S>>,
    flushing: watch::Receiver<bool>,
}

impl<S: Sink> Publisher<S> {
    /// Flushes until `closed`, and then what waits.
    pub fn start(sink: S, limits: Flushing, closed: watch::Receiver<bool>) -> Self {
        let shared = Arc::new(Shared {
            sink,
            room: Semaphore::new(limits.queue.clamp(1, Semaphore::MAX_PERMITS)),
            limits,
            line: Mutex::new(Line {
                waiting: VecDeque::new(),
                flights: 0,
                own: None,
                alone: true,
                closed: false,
            }),
            ready: Notify::new(),
        });
        let (running, flushing) = watch::channel(true);
        let flusher = shared.clone();
        tokio::spawn(async move {
            flusher.run(closed).await;
            running.send_replace(false);
        });
        Self { shared, flushing }
    }

    /// Waits until everything that waits is flushed, after the close.
    pub async fn ended(&self) {
        // An error means that the task is gone: it has ended too.
        let _ = self.flushing.clone().wait_for(|running| !running).await;
    }

    /// Answers per event, once each is stored.
    pub async fn publish(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        let mut items = Vec::with_capacity(events.len());
        let mut refused = Vec::with_capacity(events.len());
        for event in events {
            refused.push(match self.shared.sink.prepare(event) {
                Ok(item) => {
                    items.push(item);
                    None
                }
                Err(error) => Some(error),
            });
        }
        let mut stored = self.shared.store(items).await?.into_iter();
        let answers = refused.into_iter().map(|refused| match refused {
            Some(error) => Err(error),
            None => stored.next().unwrap_or_else(|| Err(closed())),
        });
        Ok(answers.collect())
    }
}

impl<S: Sink> fmt::Debug for Publisher<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = &self.shared.limits;
        f.debug_tuple("Publisher").field(limits).finish()
    }
}

struct Shared<S: Sink> {
    sink: S,
    limits: Flushing,
    line: Mutex<Line<S::Item>>,
    /// For publishes in the line.
    room: Semaphore,
    /// A flush is to go out.
    ready: Notify,
}

/// Who waits, and what is on its way.
struct Line<I> {
    waiting: VecDeque<Wanted<I>>,
    flights: usize,
    /// The one that a caller sends for itself.
    own: Option<Begun>,
    /// The last flush was of one caller.
    alone: bool,
    closed: bool,
}

/// One event that waits for a flush.
struct Wanted<I> {
    item: I,
    /// Whether it was published together with the one before.
    continues: bool,
    answer: oneshot::Sender<Result<Published>>,
}

impl<I> Line<I> {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.flights == 0
    }

    /// Whether the next flush is sent now. What was published together and does not fit one waits
    /// for those before, so that it stays in order whatever becomes of them.
    fn goes_out(&self, in_flight: usize) -> bool {
        let Some(next) = self.waiting.front() else {
            return false;
        };
        self.flights == 0
            || (self.flights < in_flight && self.waiting.len() >= WORTH && !next.continues)
    }
}

type Answers = Vec<Result<Published>>;

/// A flush that a caller sent for itself is over, whatever became of it.
struct Landing<S: Sink>(Arc<Shared<S>>);

impl<S: Sink> Drop for Landing<S> {
    fn drop(&mut self) {
        let mut line = self.0.line.lock();
        line.flights -= 1;
        line.own = None;
        drop(line);
        self.0.ready.notify_one();
    }
}

impl<S: Sink> Shared<S> {
    async fn store(self: &Arc<Self>, items: Vec<S::Item>) -> Result<Answers> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        if self.goes_alone(&items) {
            return self.send_alone(items).await;
        }
        let room = self.room.acquire().await.map_err(|_| closed())?;
        let answers = self.wait_in_line(items)?;
        // Given back when the flush goes out.
        room.forget();
        let mut results = Vec::with_capacity(answers.len());
        for answer in answers {
            results.push(answer.await.unwrap_or_else(|_| Err(closed())));
        }
        Ok(results)
    }

    /// Nobody else is publishing, and it is one flush: then nobody has to be asked to send it.
    fn goes_alone(&self, items: &[S::Item]) -> bool {
        let bytes: usize = items.iter().map(|item| self.sink.size(item)).sum();
        let fits = items.len() <= self.limits.events && bytes <= self.limits.bytes;
        let mut line = self.line.lock();
        let alone = line.alone && line.is_empty() && !line.closed && (fits || items.len() == 1);
        if alone {
            line.flights += 1;
        }
        alone
    }

    /// In the caller's task, until the caller goes away or somebody waits behind it.
    async fn send_alone(self: &Arc<Self>, items: Vec<S::Item>) -> Result<Answers> {
        let landing = Landing(self.clone());
        let (answer, answered) = oneshot::channel();
        let own = Onward::new(async move {
            let items: Vec<&S::Item> = items.iter().collect();
            // Nobody may be there to hear it.
            let _ = answer.send(landing.0.append_all(&items).await);
        });
        let awaited = {
            let mut line = self.line.lock();
            line.own = own.begun();
            !line.waiting.is_empty()
        };
        if awaited && let Some(own) = own.begun() {
            own.go_on();
        }
        own.await;
        answered.await.map_err(|_| closed())
    }

    fn wait_in_line(
        &self,
        items: Vec<S::Item>,
    ) -> Result<Vec<oneshot::Receiver<Result<Published>>>> {
        let mut answers = Vec::with_capacity(items.len());
        let mut line = self.line.lock();
        if line.closed {
            return Err(closed());
        }
        for item in items {
            let (answer, answered) = oneshot::channel();
            line.waiting.push_back(Wanted {
                item,
                continues: !answers.is_empty(),
                answer,
            });
            answers.push(answered);
        }
        if line.goes_out(self.limits.in_flight) {
            self.ready.notify_one();
        }
        let before = line.own.take();
        drop(line);
        if let Some(before) = before {
            before.go_on();
        }
        Ok(answers)
    }

    /// Until the close, and until everything that waited before it is flushed.
    async fn run(self: Arc<Self>, mut closed: watch::Receiver<bool>) {
        let mut flights = FuturesUnordered::new();
        let mut open = true;
        loop {
            while let Some(batch) = self.next_batch() {
                flights.push(self.flush(batch));
            }
            if !open && self.line.lock().is_empty() {
                return;
            }
            tokio::select! {
                biased;
                Some(()) = flights.next(), if !flights.is_empty() => {}
                () = self.gather() => {}
                _ = closed.wait_for(|closed| *closed), if open => {
                    open = false;
                    self.line.lock().closed = true;
                    self.room.close();
                }
            }
        }
    }

    /// Waits until a flush is to go out; whom the last one answered is about to publish again.
    async fn gather(&self) {
        self.ready.notified().await;
        tokio::task::yield_now().await;
    }

    fn next_batch(&self) -> Option<Vec<Wanted<S::Item>>> {
        let mut line = self.line.lock();
        if !line.goes_out(self.limits.in_flight) {
            return None;
        }
        let (mut batch, mut bytes): (Vec<Wanted<S::Item>>, usize) = (Vec::new(), 0);
        while let Some(next) = line.waiting.front() {
            bytes += self.sink.size(&next.item);
            let full = batch.len() >= self.limits.events || bytes > self.limits.bytes;
            if full && !batch.is_empty() {
                break;
            }
            batch.extend(line.waiting.pop_front());
        }
        let callers = batch.iter().filter(|wanted| !wanted.continues).count();
        line.alone = callers <= 1;
        line.flights += 1;
        drop(line);
        self.room.add_permits(callers);
        Some(batch)
    }

    async fn flush(&self, batch: Vec<Wanted<S::Item>>) {
        let items: Vec<&S::Item> = batch.iter().map(|wanted| &wanted.item).collect();
        let answers = self.append_all(&items).await;
        self.line.lock().flights -= 1;
        for (wanted, answer) in batch.into_iter().zip(answers) {
            // A caller that is gone needs no answer.
            let _ = wanted.answer.send(answer);
        }
    }

    /// Answers for each; what is the same event is stored once.
    async fn append_all(&self, items: &[&S::Item]) -> Answers {
        let deadline = self.sink.clock().now() + self.limits.timeout;
        let firsts = self.firsts(items);
        let mut answers: Vec<Option<Result<Published>>> = items.iter().map(|_| None).collect();
        let own = firsts.iter().enumerate().filter(|(at, first)| at == *first);
        let mut left: Vec<usize> = own.map(|(at, _)| at).collect();
        while !left.is_empty() {
            let some: Vec<&S::Item> = left
                .iter()
                .filter_map(|at| items.get(*at).copied())
                .collect();
            let appended = match self.append(&some, deadline).await {
                Ok(appended) => appended.into_iter().map(|one| one.map(Ok)).collect(),
                Err(error) => some
                    .iter()
                    .map(|_| Some(Err(error.duplicate())))
                    .collect::<Vec<_>>(),
            };
            for (at, answer) in left.iter().zip(appended) {
                if let Some(slot) = answers.get_mut(*at) {
                    *slot = answer;
                }
            }
            left.retain(|at| answers.get(*at).is_some_and(Option::is_none));
        }
        let told = firsts.into_iter().enumerate().map(|(at, first)| {
            match answers.get(first).and_then(Option::as_ref) {
                Some(Ok(published)) => Ok(Published {
                    duplicate: published.duplicate || first < at,
                    ..*published
                }),
                Some(Err(error)) => Err(error.duplicate()),
                None => Err(unanswered()),
            }
        });
        told.collect()
    }

    /// For each the place of the first that is the same event.
    fn firsts(&self, items: &[&S::Item]) -> Vec<usize> {
        let mut seen = HashMap::with_capacity(items.len());
        let places =
            items
                .iter()
                .enumerate()
                .map(|(at, item)| match seen.entry(self.sink.identity(item)) {
                    Entry::Occupied(first) => *first.get(),
                    Entry::Vacant(free) => *free.insert(at),
                });
        places.collect()
    }

    /// Waits for a server that cannot be reached.
    async fn append(
        &self,
        items: &[&S::Item],
        deadline: Timestamp,
    ) -> Result<Vec<Option<Published>>> {
        loop {
            let error = match self.sink.append(items).await {
                Ok(appended)
                    if appended.len() == items.len() && appended.iter().any(Option::is_some) =>
                {
                    return Ok(appended);
                }
                Ok(_) => unanswered(),
                Err(error) => error,
            };
            let clock = self.sink.clock();
            if error.kind() != ErrorKind::Unavailable || clock.now() + RETRY >= deadline {
                return Err(error.during("publish"));
            }
            clock.sleep(RETRY).await;
        }
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the backend is closed")
}

fn unanswered() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "the server did not answer for each event",
    )
}

#[cfg(test)]
mod tests;
