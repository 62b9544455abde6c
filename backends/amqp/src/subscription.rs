//! A subscription as the book keeps it, and the names of what belongs to it. Not its deliveries.

use std::collections::BTreeMap;
use std::time::Duration;

use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::pattern::PatternSet;
use fanfare_core::retry::RetryPolicy;
use fanfare_core::subscription::{OnDead, Start, SubscriptionName, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::Options;
use serde::{Deserialize, Serialize};

/// The most events that may stand behind their keys in one process.
const MAX_BLOCKED: usize = 10_000;

/// Every durable subscription of a stream.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Book {
    pub(crate) version: u64,
    /// How often queues were found gone that nobody here had deleted.
    #[serde(default)]
    pub(crate) losses: u64,
    pub(crate) subscriptions: BTreeMap<String, Stored>,
}

/// One of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "options as they are stored")]
pub(crate) struct Stored {
    patterns: Vec<String>,
    start: String,
    ordered: bool,
    park: bool,
    lease_millis: u64,
    retry: RetryPolicy,
    dead_letter: bool,
    created_nanos: String,
    /// Its queues are there, or somebody else deleted them.
    pub(crate) made: bool,
    pub(crate) paused: bool,
    pub(crate) acknowledged: u64,
    pub(crate) dropped: u64,
    /// Its queue was made to pass on what is to run alone, and the queue of that to give it back.
    #[serde(default, rename = "pass_on")]
    pub(crate) passes_on: bool,
    /// In milliseconds, each with a queue of its own.
    pub(crate) delays: Vec<u64>,
    /// Where it is ordered: the process that has it, and has not left in good order.
    #[serde(default)]
    pub(crate) owner: Option<String>,
    /// Where it is ordered: what the messages of its queue cannot say themselves, by position.
    #[serde(default)]
    pub(crate) stories: BTreeMap<String, Story>,
}

/// What became of one delivery so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Story {
    /// Attempts made; where it runs alone now, that one too.
    pub(crate) attempts: u32,
    first_failure_millis: Option<i64>,
    due_millis: Option<i64>,
}

impl Story {
    pub(crate) fn new(attempts: u32, first_failure: Option<Timestamp>) -> Self {
        Self {
            attempts,
            first_failure_millis: first_failure.map(Timestamp::as_millis),
            due_millis: None,
        }
    }

    /// It waits for a retry, no shorter than until then.
    pub(crate) fn until(self, due: Timestamp) -> Self {
        Self {
            due_millis: Some(due.as_millis() + 1),
            ..self
        }
    }

    pub(crate) fn first_failure(&self) -> Option<Timestamp> {
        self.first_failure_millis.map(Timestamp::from_millis)
    }

    /// How much longer it waits.
    pub(crate) fn wait(&self, now: Timestamp) -> Option<Duration> {
        let due = self.due_millis.map(Timestamp::from_millis)?;
        Some(due.since(now)).filter(|wait| !wait.is_zero())
    }
}

impl Stored {
    pub(crate) fn new(spec: &SubscriptionSpec, created: Timestamp) -> Self {
        let start = match spec.start {
            Start::Earliest => "earliest".to_owned(),
            Start::Latest => "latest".to_owned(),
            Start::Time(time) => format!("time {}", time.as_nanos()),
            Start::After(position) => format!("after {position}"),
        };
        Self {
            patterns: spec
                .patterns
                .iter()
                .map(|p| p.as_str().to_owned())
                .collect(),
            start,
            ordered: spec.ordered,
            park: spec.on_dead == OnDead::Park,
            lease_millis: u64::try_from(spec.lease.as_millis()).unwrap_or(u64::MAX),
            retry: spec.retry.clone(),
            dead_letter: spec.dead_letter,
            created_nanos: created.as_nanos().to_string(),
            made: false,
            paused: false,
            acknowledged: 0,
            dropped: 0,
            passes_on: false,
            delays: Vec::new(),
            owner: None,
            stories: BTreeMap::new(),
        }
    }

    pub(crate) fn created(&self) -> Timestamp {
        Timestamp::from_nanos(self.created_nanos.parse().unwrap_or(0))
    }

    pub(crate) fn spec(&self, name: &SubscriptionName) -> Result<SubscriptionSpec> {
        let patterns = PatternSet::parse(self.patterns.iter().map(String::as_str))?;
        let corrupt = || Error::new(ErrorKind::Corrupt, "a stored start is none");
        Ok(SubscriptionSpec {
            start: match self.start.split_once(' ') {
                None if self.start == "earliest" => Start::Earliest,
                None => Start::Latest,
                Some(("time", nanos)) => {
                    let nanos = nanos.parse().map_err(|_| corrupt())?;
                    Start::Time(Timestamp::from_nanos(nanos))
                }
                Some((_, position)) => Start::After(position.parse()?),
            },
            ordered: self.ordered,
            on_dead: if self.park {
                OnDead::Park
            } else {
                OnDead::Continue
            },
            lease: Duration::from_millis(self.lease_millis),
            retry: self.retry.clone(),
            dead_letter: self.dead_letter,
            ..SubscriptionSpec::new(name.clone(), patterns)
        })
    }

    /// Takes over lease, retry and dead-letter options; the rest stays.
    pub(crate) fn change(&mut self, spec: &SubscriptionSpec) {
        let new = Self::new(spec, self.created());
        self.lease_millis = new.lease_millis;
        self.retry = new.retry;
        self.dead_letter = new.dead_letter;
    }

    pub(crate) fn set_patterns(&mut self, patterns: &PatternSet) {
        self.patterns = patterns.iter().map(|p| p.as_str().to_owned()).collect();
    }
}

pub(crate) fn options(spec: &SubscriptionSpec) -> Options {
    Options {
        ordered: spec.ordered,
        park: false,
        lease: spec.lease,
        max_attempts: spec.retry.max_attempts,
        dead_letter: spec.dead_letter,
        max_blocked: MAX_BLOCKED,
    }
}

/// The patterns as binding keys of a topic exchange.
pub(crate) fn keys(patterns: &PatternSet) -> Vec<String> {
    let key = |pattern: &str| {
        let words = pattern
            .split('.')
            .map(|word| if word == "**" { "#" } else { word });
        words.collect::<Vec<_>>().join(".")
    };
    patterns
        .iter()
        .map(|pattern| key(pattern.as_str()))
        .collect()
}

pub(crate) fn unknown(name: &SubscriptionName) -> Error {
    let text = format!("there is no subscription `{name}`");
    Error::new(ErrorKind::NotFound, text)
}
