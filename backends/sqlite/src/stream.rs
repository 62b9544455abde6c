//! One open stream: what its writer, its consumers and its readers share. The writer changes it after
//! each commit; nothing here does I/O.

use std::sync::atomic::{AtomicU64, Ordering};

use fanfare_core::{Error, ErrorKind, Result};
use parking_lot::RwLock;

use crate::census::Census;
use crate::config::SqliteConfig;
use crate::error;
use crate::names::Names;
use crate::subscription::Subscriptions;
use crate::tail::Tail;

/// Shared by everybody who has to do with the stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) config: SqliteConfig,
    pub(crate) names: Names,
    pub(crate) tail: Tail,
    pub(crate) census: Census,
    pub(crate) subscriptions: Subscriptions,
    /// Events at or below are gone, even where their rows still wait to be removed.
    pub(crate) trimmed: AtomicU64,
    /// Commits that wrote something.
    pub(crate) commits: AtomicU64,
    /// Bytes that the database takes.
    pub(crate) bytes: AtomicU64,
    /// How often the stream was opened.
    opens: u64,
    /// Subscriptions made since the start.
    made: AtomicU64,
    /// Held by whoever needs the log to stay as it is, and by trimming.
    pub(crate) trimming: tokio::sync::Mutex<()>,
    condition: RwLock<Condition>,
}

/// Whether the stream works.
#[derive(Debug)]
enum Condition {
    Working,
    /// Publishers wait until there is room again; all else goes on.
    Full(Error),
    /// A write failed: nothing goes on until the stream is opened anew.
    Failed(Error),
    Closed,
}

impl Stream {
    /// A stream that works.
    pub(crate) fn new(
        config: SqliteConfig,
        names: Names,
        tail: Tail,
        census: Census,
        trimmed: u64,
        opens: u64,
    ) -> Self {
        Self {
            config,
            names,
            tail,
            census,
            subscriptions: Subscriptions::default(),
            trimmed: AtomicU64::new(trimmed),
            commits: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            opens,
            made: AtomicU64::new(0),
            trimming: tokio::sync::Mutex::new(()),
            condition: RwLock::new(Condition::Working),
        }
    }

    /// Refuses after a failed write, and after close.
    pub(crate) fn check(&self) -> Result<()> {
        match &*self.condition.read() {
            Condition::Working | Condition::Full(_) => Ok(()),
            Condition::Failed(cause) => Err(error::poisoned(cause)),
            Condition::Closed => Err(error::closed()),
        }
    }

    /// Whether it works, in a sentence.
    pub(crate) fn health(&self) -> (bool, String) {
        match &*self.condition.read() {
            Condition::Working => (true, "ok".into()),
            Condition::Full(cause) => (false, format!("publishers are refused: {cause}")),
            Condition::Failed(cause) => (false, error::poisoned(cause).to_string()),
            Condition::Closed => (false, "closed".into()),
        }
    }

    /// Why publishers are refused for want of room, if they are.
    pub(crate) fn full(&self) -> Option<Error> {
        match &*self.condition.read() {
            Condition::Full(cause) => Some(cause.duplicate()),
            _ => None,
        }
    }

    /// Publishers are refused from now on, or no longer.
    pub(crate) fn set_full(&self, cause: Option<Error>) {
        let mut condition = self.condition.write();
        if let Condition::Working | Condition::Full(_) = &*condition {
            *condition = cause.map_or(Condition::Working, Condition::Full);
        }
    }

    /// Nothing is answered any more but this failure.
    pub(crate) fn fail(&self, cause: Error) {
        let mut condition = self.condition.write();
        if !matches!(&*condition, Condition::Closed) {
            *condition = Condition::Failed(cause);
        }
        drop(condition);
        self.wake_all();
    }

    /// Nothing is answered any more.
    pub(crate) fn close(&self) {
        *self.condition.write() = Condition::Closed;
        self.wake_all();
    }

    /// Above the epoch of every lease before this start.
    pub(crate) fn first_epoch(&self) -> u64 {
        self.opens << 40
    }

    /// Above the epoch of every lease so far: a subscription made anew under an old name does not
    /// take old receipts for its own.
    pub(crate) fn fresh_epoch(&self) -> u64 {
        let made = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        self.first_epoch() + (made << 28)
    }

    fn wake_all(&self) {
        self.subscriptions.wake_all();
        self.tail.nudge();
    }

    /// The last position that retention removed.
    pub(crate) fn trimmed(&self) -> u64 {
        self.trimmed.load(Ordering::Acquire)
    }
}

/// The refusal of what no longer fits under `max_bytes`.
pub(crate) fn over_limit(used: u64, limit: u64) -> Error {
    Error::new(
        ErrorKind::Full,
        format!(
            "the stream takes {used} bytes, max_bytes is {limit}, and nothing settled can be trimmed"
        ),
    )
}
