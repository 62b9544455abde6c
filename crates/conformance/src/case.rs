//! What a case is: a named function that checks one side of a promise, and what it needs from the
//! backend. The cases themselves live in [`crate::cases`].

use std::fmt;
use std::panic::Location;

use fanfare_core::capability::{Capabilities, Dedup, HistoryKind};
use fanfare_core::error::{Error, ErrorKind};
use futures::future::BoxFuture;

use crate::stage::Stage;

/// The function itself.
pub(crate) type Run = for<'a> fn(&'a mut Stage) -> BoxFuture<'a, Verdict>;

/// One check of one promise.
#[derive(Clone, Copy)]
pub struct Case {
    /// The function's name: a sentence.
    pub name: &'static str,
    /// The module it lives in.
    pub topic: &'static str,
    /// The number of the promise it checks.
    pub promise: u8,
    /// What the backend must offer for it to make sense.
    pub need: Need,
    /// Whether it holds at most once too: nothing is published before somebody listens, and nothing
    /// has to outlive a process.
    pub live: bool,
    pub(crate) run: Run,
}

impl Case {
    /// Why it is not run against a backend with these capabilities.
    pub fn missing(&self, has: &Capabilities) -> Option<&'static str> {
        if has.at_most_once && !self.live {
            return Some("at_most_once = true");
        }
        self.need.missing(has)
    }

    /// Where it is run, in words; none where it always is.
    pub(crate) fn condition(&self) -> Option<String> {
        let parts = [
            self.need.condition(),
            self.live.then_some("at most once too"),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}::{} (promise {})",
            self.topic, self.name, self.promise
        )
    }
}

/// A capability that a case depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Leases and settlements: nearly every case.
    AtLeastOnce,
    /// Repeated publishes are recognised.
    Dedup,
    /// Subscriptions may start with the oldest event.
    Earliest,
    /// Subscriptions may start at a time.
    StartTime,
    /// Subscriptions may start at a position.
    StartPosition,
    /// A key can wait behind its dead letter.
    Park,
    /// Every filter of the history.
    History,
    /// Subscriptions can be paused.
    Pause,
    /// Subscriptions can be moved.
    Seek,
    /// Conservation can be proven.
    Audit,
    /// Data outlive the backend's handle.
    Durable,
    /// Several processes may open it at once.
    Shared,
}

impl Need {
    /// Where such a case is run, in words; none where it always is.
    fn condition(self) -> Option<&'static str> {
        Some(match self {
            Self::AtLeastOnce => return None,
            Self::Dedup => "where duplicates are known",
            Self::Earliest => "where a start may be the earliest",
            Self::StartTime => "where a start may be a time",
            Self::StartPosition => "where a start may be a position",
            Self::Park => "where keys can park",
            Self::History => "where the history is full",
            Self::Pause => "where pause is offered",
            Self::Seek => "where seek is offered",
            Self::Audit => "where the audit is offered",
            Self::Durable => "where it is durable",
            Self::Shared => "where several processes may open it",
        })
    }

    pub(crate) fn missing(self, has: &Capabilities) -> Option<&'static str> {
        let (offered, reason) = match self {
            Self::AtLeastOnce => (true, ""),
            Self::Dedup => (has.dedup != Dedup::None, "dedup = none"),
            Self::Earliest => (has.start.earliest, "start.earliest = false"),
            Self::StartTime => (has.start.time, "start.time = false"),
            Self::StartPosition => (has.start.position, "start.position = false"),
            Self::Park => (has.park, "park = false"),
            Self::History => (has.history == HistoryKind::Full, "history is not full"),
            Self::Pause => (has.pause, "pause = false"),
            Self::Seek => (has.seek, "seek = false"),
            Self::Audit => (has.audit, "audit = false"),
            Self::Durable => (has.durable, "durable = false"),
            Self::Shared => (has.shared, "shared = false"),
        };
        (!offered).then_some(reason)
    }
}

/// How a case ends.
pub(crate) type Verdict<T = ()> = Result<T, Failure>;

/// Why a case did not pass.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The promise is broken.
    Broken(String),
    /// The target cannot offer what the case needs; found out while running.
    NotOffered(String),
    /// It may well hold, and cannot be tried where the target is.
    NotTried(String),
}

impl Failure {
    #[track_caller]
    pub(crate) fn new(what: impl fmt::Display) -> Self {
        let at = Location::caller();
        Self::Broken(format!("{what} ({}:{})", at.file(), at.line()))
    }
}

impl From<Error> for Failure {
    #[track_caller]
    fn from(error: Error) -> Self {
        Self::new(format!("unexpected error {error:?}"))
    }
}

impl From<tokio::task::JoinError> for Failure {
    #[track_caller]
    fn from(error: tokio::task::JoinError) -> Self {
        Self::new(error)
    }
}

/// What the target was asked to do; `missing` says what it lacks where it has nothing of the kind. An
/// [`Unsupported`](ErrorKind::Unsupported) error is its own reason not to try.
pub(crate) fn offered<T>(done: Option<Result<T, Error>>, missing: &str) -> Verdict<T> {
    match done {
        None => Err(Failure::NotOffered(missing.into())),
        Some(Err(error)) if error.kind() == ErrorKind::Unsupported => {
            Err(Failure::NotTried(error.to_string()))
        }
        Some(done) => Ok(done?),
    }
}

/// Fails the case unless the condition holds.
macro_rules! require {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::case::Failure::new(format!($($message)+)));
        }
    };
}

/// Fails the case unless both sides are equal, and shows both.
macro_rules! require_eq {
    ($left:expr, $right:expr, $($message:tt)+) => {
        match (&$left, &$right) {
            (left, right) => {
                if *left != *right {
                    let what = format!($($message)+);
                    return Err($crate::case::Failure::new(format!("{what}: {left:?}, expected {right:?}")));
                }
            }
        }
    };
}

/// Fails the case unless the result is an error of this kind.
macro_rules! require_kind {
    ($result:expr, $kind:ident) => {
        match $result {
            Err(error) if error.kind() == fanfare_core::ErrorKind::$kind => error,
            Err(error) => {
                return Err($crate::case::Failure::new(format!(
                    "expected an error of kind {}, got {error:?}",
                    stringify!($kind)
                )));
            }
            Ok(_) => {
                return Err($crate::case::Failure::new(format!(
                    "expected an error of kind {}, got an answer",
                    stringify!($kind)
                )));
            }
        }
    };
}

/// Lists the cases of a module: `function: promise` or `function: promise, Need`, with `+ live` where
/// it holds at most once too.
macro_rules! cases {
    ($topic:literal; $($name:ident: $promise:literal $(, $need:ident)? $(+ $live:ident)?;)+) => {
        pub(super) const CASES: &[$crate::case::Case] = &[$(
            $crate::case::Case {
                name: stringify!($name),
                topic: $topic,
                promise: $promise,
                need: cases!(@need $($need)?),
                live: cases!(@live $($live)?),
                run: |stage| Box::pin($name(stage)),
            },
        )+];
    };
    (@need) => { $crate::case::Need::AtLeastOnce };
    (@need $need:ident) => { $crate::case::Need::$need };
    (@live) => { false };
    (@live live) => { true };
}

pub(crate) use {cases, require, require_eq, require_kind};
