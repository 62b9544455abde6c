//! A subscription as an engine stores it.

use std::time::Duration;

use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event_type::EventType;
use fanfare_core::pattern::PatternSet;
use fanfare_core::position::Position;
use fanfare_core::retry::RetryPolicy;
use fanfare_core::subscription::{OnDead, Start, SubscriptionName, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

use crate::slot::Slot;

/// Everything about a subscription but its deliveries.
#[derive(Debug, Clone)]
pub struct Stored {
    /// As created or last changed.
    pub spec: SubscriptionSpec,
    /// Changes with the spec, the patterns and the place.
    pub version: u64,
    /// Which events are its.
    pub interest: Interest,
    /// It begins behind this position.
    pub base: u128,
    /// Everything above it has not been claimed.
    pub frontier: u128,
    /// Matching events between base and frontier.
    pub claimed: u64,
    /// Gives out nothing new.
    pub paused: bool,
    /// When.
    pub created: Timestamp,
}

impl Stored {
    /// Whether the event at `position` is the subscription's. What cannot be read is everybody's: it
    /// becomes a dead letter, and is not lost.
    pub fn matches(&self, position: u128, slot: &Slot) -> bool {
        match slot {
            Slot::Event(event) => self.interest.matches(position, event.event_type()),
            Slot::Raw(_) => true,
        }
    }
}

/// Pattern sets, each with the position after which it holds.
#[derive(Debug, Clone)]
pub struct Interest(Vec<(u128, PatternSet)>);

impl Interest {
    /// From positions and texts of patterns; none where a text is no pattern.
    pub fn parse(parts: impl IntoIterator<Item = (u128, Vec<String>)>) -> Option<Self> {
        let parts = parts.into_iter().map(|(after, patterns)| {
            let set = PatternSet::parse(patterns.iter().map(String::as_str)).ok()?;
            Some((after, set))
        });
        parts.collect::<Option<_>>().map(Self)
    }

    /// Each pattern set with the position after which it holds.
    pub fn parts(&self) -> impl Iterator<Item = (u128, &PatternSet)> {
        self.0.iter().map(|(after, patterns)| (*after, patterns))
    }

    /// Whether the patterns that hold at `position` match.
    pub fn matches(&self, position: u128, event_type: &EventType) -> bool {
        let mut parts = self.0.iter().rev();
        let in_force = parts.find(|(after, _)| *after < position);
        in_force.is_some_and(|(_, patterns)| patterns.matches(event_type))
    }
}

/// The spec as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct StoredSpec {
    patterns: Vec<String>,
    start: StoredStart,
    ordered: bool,
    on_dead: OnDead,
    lease_ms: u64,
    retry: RetryPolicy,
    dead_letter: bool,
    ephemeral: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredStart {
    Earliest,
    Latest,
    Time(String),
    After(Position),
}

/// The spec as JSON, without its name.
pub fn write_spec(spec: &SubscriptionSpec) -> Result<String> {
    let stored = StoredSpec {
        patterns: texts(&spec.patterns),
        start: match spec.start {
            Start::Earliest => StoredStart::Earliest,
            Start::Latest => StoredStart::Latest,
            Start::Time(time) => StoredStart::Time(time.as_nanos().to_string()),
            Start::After(position) => StoredStart::After(position),
        },
        ordered: spec.ordered,
        on_dead: spec.on_dead,
        lease_ms: u64::try_from(spec.lease.as_millis()).unwrap_or(u64::MAX),
        retry: spec.retry.clone(),
        dead_letter: spec.dead_letter,
        ephemeral: spec.ephemeral,
    };
    serde_json::to_string(&stored).map_err(|error| corrupt(&spec.name).because(error))
}

/// What [`write_spec`] wrote.
pub fn read_spec(name: &SubscriptionName, json: &str) -> Option<SubscriptionSpec> {
    let stored: StoredSpec = serde_json::from_str(json).ok()?;
    Some(SubscriptionSpec {
        name: name.clone(),
        patterns: PatternSet::parse(stored.patterns.iter().map(String::as_str)).ok()?,
        start: match stored.start {
            StoredStart::Earliest => Start::Earliest,
            StoredStart::Latest => Start::Latest,
            StoredStart::Time(nanos) => Start::Time(Timestamp::from_nanos(nanos.parse().ok()?)),
            StoredStart::After(position) => Start::After(position),
        },
        ordered: stored.ordered,
        on_dead: stored.on_dead,
        lease: Duration::from_millis(stored.lease_ms),
        retry: stored.retry,
        dead_letter: stored.dead_letter,
        ephemeral: stored.ephemeral,
    })
}

/// The patterns as texts.
pub fn texts(patterns: &PatternSet) -> Vec<String> {
    patterns.iter().map(|p| p.as_str().to_owned()).collect()
}

/// There is no such subscription.
pub fn unknown(name: &SubscriptionName) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("there is no subscription `{name}`"),
    )
}

/// What is stored of it is not what we write.
pub fn corrupt(name: &SubscriptionName) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the stored subscription `{name}` cannot be read"),
    )
}
