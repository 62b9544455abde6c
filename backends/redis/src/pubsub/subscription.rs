//! One subscription of this process: its queue, who waits for it, and the line it hears by.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event_type::EventType;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::duration;
use fanfare_cursor::queue::Queue;
use parking_lot::{Mutex, MutexGuard};
use redis::aio::PubSubSink;
use tokio::sync::{Notify, oneshot, watch};

use super::channel::Selector;
use super::line::{self, Line};
use super::stream::Stream;

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) name: SubscriptionName,
    pub(super) ephemeral: bool,
    queue: Mutex<Queue>,
    /// Something may be claimable, or it is over.
    pub(super) claimable: Notify,
    /// Something was settled.
    room: Notify,
    ended: watch::Sender<bool>,
    /// Whoever writes dead letters holds it, so that none is written twice.
    pub(super) writing: tokio::sync::Mutex<()>,
    line: Mutex<Heard>,
    /// Patterns that hold once everything that came before them is taken, and who waits for that.
    next_patterns: Mutex<Option<(PatternSet, oneshot::Sender<()>)>>,
    pub(super) asked: Notify,
    up: AtomicBool,
    /// How often a line of this process broke.
    gaps: Arc<AtomicU64>,
}

/// What its line hears now.
#[derive(Default)]
struct Heard {
    selectors: Arc<[Selector]>,
    sink: Option<PubSubSink>,
}

impl std::fmt::Debug for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.selectors.fmt(f)
    }
}

impl Subscription {
    pub(super) fn new(queue: Queue, gaps: Arc<AtomicU64>) -> Self {
        Self {
            name: queue.spec.name.clone(),
            ephemeral: queue.spec.ephemeral,
            queue: Mutex::new(queue),
            claimable: Notify::new(),
            room: Notify::new(),
            ended: watch::Sender::new(false),
            writing: tokio::sync::Mutex::default(),
            line: Mutex::default(),
            next_patterns: Mutex::default(),
            asked: Notify::new(),
            up: AtomicBool::new(false),
            gaps,
        }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    /// Changes the queue and wakes whoever may have waited for that.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let done = change(&mut self.queue.lock());
        self.claimable.notify_waiters();
        self.room.notify_waiters();
        done
    }

    /// No more deliveries, no more line.
    pub(super) fn end(&self) {
        self.ended.send_replace(true);
        self.claimable.notify_waiters();
    }

    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Until it ended.
    pub(super) async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        // Its sender is ours: it cannot be gone.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Until there is room, or it ended; whether there was none.
    pub(super) async fn wait_for_room(&self) -> bool {
        if self.queue().has_room() {
            return false;
        }
        let mut waited = false;
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            if self.queue().has_room() || self.has_ended() {
                return waited;
            }
            waited = true;
            tokio::select! {
                () = room => {}
                () = self.ended() => {}
            }
        }
    }

    /// Whether its line is up.
    pub(super) fn hears(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// What it was deaf to is lost, as far as anybody knows.
    pub(super) fn tell_gap(&self, deaf: Duration, queue_was_full: bool) {
        self.gaps.fetch_add(1, Ordering::Relaxed);
        let (name, deaf) = (&self.name, duration::format(deaf));
        tracing::error!(
            subscription = %name, %deaf, queue_was_full,
            "the line broke and is up again: events may be lost"
        );
    }

    /// What its line is to hear, and hears once it is up.
    pub(super) fn selectors(&self) -> Arc<[Selector]> {
        self.line.lock().selectors.clone()
    }

    /// A line is up.
    pub(super) fn is_up_by(&self, line: &Line) {
        *self.line.lock() = Heard {
            selectors: line.selectors.clone(),
            sink: Some(line.sink.clone()),
        };
        self.up.store(true, Ordering::Relaxed);
    }

    /// Its line broke.
    pub(super) fn is_down(&self) {
        self.up.store(false, Ordering::Relaxed);
    }

    /// Hears other patterns from now on. What its line heard before it goes on to hear, so that
    /// nothing is missed or doubled in between; it is matched again here, and ends with the line.
    pub(super) async fn change_patterns(
        &self,
        stream: &Stream,
        patterns: PatternSet,
    ) -> Result<()> {
        let (known, sink) = {
            let line = self.line.lock();
            (line.selectors.clone(), line.sink.clone())
        };
        let wanted = stream.channels.selectors(&patterns);
        let new = wanted.into_iter().filter(|new| !known.contains(new));
        let new: Vec<_> = new.collect();
        let all = known.iter().chain(&new).cloned().collect();
        let down = || Error::new(ErrorKind::Unavailable, "redis cannot be reached");
        let mut sink = sink.ok_or_else(down)?;
        self.line.lock().selectors = all;
        line::ask(&stream.wire, &mut sink, &new).await?;
        let (done, changed) = oneshot::channel();
        *self.next_patterns.lock() = Some((patterns, done));
        self.asked.notify_one();
        let config = &stream.wire.config;
        tokio::select! {
            _ = changed => Ok(()),
            () = config.clock.sleep(config.response_timeout) => {
                let text = "the queue is full: the patterns change once there is room";
                Err(Error::new(ErrorKind::Unavailable, text))
            }
        }
    }

    pub(super) fn has_next_patterns(&self) -> bool {
        self.next_patterns.lock().is_some()
    }

    /// What came before the new patterns is taken.
    pub(super) fn turn_to_next_patterns(&self) {
        if let Some((patterns, done)) = self.next_patterns.lock().take() {
            self.queue().spec.patterns = patterns;
            // Nobody may wait any more.
            let _ = done.send(());
        }
    }

    pub(super) fn matches(&self, event_type: &EventType) -> bool {
        self.queue().spec.patterns.matches(event_type)
    }
}
