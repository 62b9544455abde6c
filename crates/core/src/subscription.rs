//! What a subscription is: a durable name, patterns, and options.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result, Violation};
use crate::pattern::PatternSet;
use crate::position::Position;
use crate::retry::RetryPolicy;
use crate::timestamp::{Timestamp, duration};

/// The shortest lease.
pub const MIN_LEASE: Duration = Duration::from_millis(100);
/// The longest lease.
pub const MAX_LEASE: Duration = Duration::from_hours(12);

/// 1 to 64 of `[A-Za-z0-9_-]` and, for names that the bus makes from a group, dots between them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionName(Arc<str>);

impl SubscriptionName {
    /// Checks the grammar.
    pub fn parse(text: &str) -> Result<Self> {
        let good = (1..=64).contains(&text.len())
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
            && text.split('.').all(|part| !part.is_empty());
        if good {
            Ok(Self(text.into()))
        } else {
            let shown: String = text.chars().take(80).collect();
            Err(Error::invalid(
                "/name",
                format!(
                    "`{}` is not a subscription name: 1 to 64 of A-Z a-z 0-9 _ and -",
                    shown.escape_debug()
                ),
            ))
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubscriptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SubscriptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

impl FromStr for SubscriptionName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl Serialize for SubscriptionName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SubscriptionName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Where a new subscription begins. It counts at creation only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// With the oldest event that is kept.
    Earliest,
    /// With the next event.
    #[default]
    Latest,
    /// With the first event recorded at or after this time.
    Time(Timestamp),
    /// With the first event after this position.
    After(Position),
}

/// What a dead letter does to the later events of its key, on an ordered subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDead {
    /// The key goes on with the next event.
    #[default]
    Continue,
    /// The key waits until the dead letter is redriven or discarded.
    Park,
}

/// A subscription as it is created and stored.
#[derive(Debug, Clone, PartialEq)]
pub struct SubscriptionSpec {
    /// The durable name.
    pub name: SubscriptionName,
    /// What it receives.
    pub patterns: PatternSet,
    /// Where it begins when it is created.
    pub start: Start,
    /// Whether events of one key are handled one at a time, in publish order.
    pub ordered: bool,
    /// What a dead letter does to its key, where ordered.
    pub on_dead: OnDead,
    /// How long a delivery belongs to its member unless extended.
    pub lease: Duration,
    /// When failed deliveries come back, and how often.
    pub retry: RetryPolicy,
    /// Whether deliveries out of attempts are kept as dead letters; else they are dropped.
    pub dead_letter: bool,
    /// Lives in this process only, from creation to the close of its consumer; never stored.
    pub ephemeral: bool,
}

impl SubscriptionSpec {
    /// A subscription with the defaults: latest, unordered, 30 s lease, 5 attempts, dead letters.
    pub fn new(name: SubscriptionName, patterns: PatternSet) -> Self {
        Self {
            name,
            patterns,
            start: Start::Latest,
            ordered: false,
            on_dead: OnDead::Continue,
            lease: Duration::from_secs(30),
            retry: RetryPolicy::default(),
            dead_letter: true,
            ephemeral: false,
        }
    }

    /// Refuses `wanted` under the name of this subscription when its patterns, order or lifetime
    /// differ: members under one name must agree on what they receive. The error names both.
    pub fn agrees_with(&self, wanted: &Self) -> Result<()> {
        let conflict = |what: String| {
            let name = &self.name;
            Err(Error::new(
                ErrorKind::Conflict,
                format!("subscription `{name}` exists with {what}"),
            ))
        };
        if self.patterns != wanted.patterns {
            return conflict(format!(
                "patterns {}, not {}",
                self.patterns, wanted.patterns
            ));
        }
        if self.ordered != wanted.ordered {
            return conflict(format!(
                "ordered = {}, not {}",
                self.ordered, wanted.ordered
            ));
        }
        if self.on_dead != wanted.on_dead {
            return conflict(format!(
                "on_dead = {:?}, not {:?}",
                self.on_dead, wanted.on_dead
            ));
        }
        if self.ephemeral != wanted.ephemeral {
            return conflict(format!(
                "ephemeral = {}, not {}",
                self.ephemeral, wanted.ephemeral
            ));
        }
        Ok(())
    }

    /// Names every value out of range.
    pub fn check(&self) -> Result<()> {
        let mut violations = match self.retry.check() {
            Ok(()) => Vec::new(),
            Err(error) => error.violations().to_vec(),
        };
        if !(MIN_LEASE..=MAX_LEASE).contains(&self.lease) {
            let given = duration::format(self.lease);
            violations.push(Violation {
                pointer: "/lease".into(),
                detail: format!("lease must be 100ms to 12h, not {given}"),
            });
        }
        if violations.is_empty() {
            Ok(())
        } else {
            Err(Error::violating(violations))
        }
    }
}
