//! A subscription as Redis holds it.

use std::collections::HashMap;
use std::time::Duration;

use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event_type::EventType;
use fanfare_core::pattern::PatternSet;
use fanfare_core::position::Position;
use fanfare_core::retry::RetryPolicy;
use fanfare_core::subscription::{OnDead, Start, SubscriptionName, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;
use redis::Value;
use serde::{Deserialize, Serialize};

use crate::config::RedisConfig;
use crate::connect::{Arguments, Wire};
use crate::frame::Slot;
use crate::place::{from_hex, hex};
use crate::scripts;

/// The spec as JSON in the field `spec`.
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

pub(crate) fn write_spec(spec: &SubscriptionSpec) -> Result<String> {
    let stored = StoredSpec {
        patterns: patterns_of(&spec.patterns),
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

pub(crate) fn write_patterns(patterns: &PatternSet) -> String {
    serde_json::Value::from(patterns_of(patterns)).to_string()
}

fn patterns_of(patterns: &PatternSet) -> Vec<String> {
    patterns.iter().map(|p| p.as_str().to_owned()).collect()
}

fn read_spec(name: &SubscriptionName, json: &str) -> Option<SubscriptionSpec> {
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

/// Everything about a subscription but its deliveries.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) spec: SubscriptionSpec,
    /// Changes with the spec, the patterns and the place.
    pub(crate) version: String,
    /// Pattern sets, each with the position after which it holds.
    interest: Vec<(u128, PatternSet)>,
    pub(crate) base: u128,
    pub(crate) frontier: u128,
    pub(crate) claimed: u64,
    pub(crate) paused: bool,
    pub(crate) created: Timestamp,
    /// Whether it is a consumer group of Redis.
    pub(crate) group: bool,
}

impl Stored {
    /// Reads it; none where there is no such subscription.
    pub(crate) async fn load(wire: &Wire, name: &SubscriptionName) -> Result<Option<Self>> {
        let mut all = redis::cmd("HGETALL");
        all.arg(wire.key(&format!("s:{name}:m")));
        let fields: HashMap<String, String> = wire.run(&all).await?;
        if fields.is_empty() {
            return Ok(None);
        }
        Self::read(name, &fields).map(Some)
    }

    pub(crate) fn read(name: &SubscriptionName, fields: &HashMap<String, String>) -> Result<Self> {
        Self::parse(name, fields).ok_or_else(|| corrupt(name))
    }

    fn parse(name: &SubscriptionName, fields: &HashMap<String, String>) -> Option<Self> {
        let parts: Vec<(String, String)> = serde_json::from_str(fields.get("interest")?).ok()?;
        let mut interest = Vec::with_capacity(parts.len());
        for (after, patterns) in parts {
            let patterns: Vec<String> = serde_json::from_str(&patterns).ok()?;
            let set = PatternSet::parse(patterns.iter().map(String::as_str)).ok()?;
            interest.push((from_hex(&after)?, set));
        }
        Some(Self {
            spec: read_spec(name, fields.get("spec")?)?,
            version: fields.get("ver")?.clone(),
            interest,
            base: from_hex(fields.get("base")?)?,
            frontier: from_hex(fields.get("frontier")?)?,
            claimed: fields.get("claimed")?.parse().ok()?,
            paused: fields.get("paused")? == "1",
            group: fields.contains_key("group"),
            created: Timestamp::from_nanos(fields.get("created")?.parse().ok()?),
        })
    }

    /// Whether the event at `position` is the subscription's. What cannot be read is everybody's: it
    /// becomes a dead letter, and is not lost.
    pub(crate) fn matches(&self, position: u128, slot: &Slot) -> bool {
        match slot {
            Slot::Event(event) => self.matches_type(position, event.event_type()),
            Slot::Raw(_) => true,
        }
    }

    fn matches_type(&self, position: u128, event_type: &EventType) -> bool {
        let mut parts = self.interest.iter().rev();
        let in_force = parts.find(|(after, _)| *after < position);
        in_force.is_some_and(|(_, patterns)| patterns.matches(event_type))
    }
}

/// What creates it (without a version) or changes its options.
pub(crate) fn put_arguments(
    config: &RedisConfig,
    spec: &SubscriptionSpec,
    version: &str,
    start: &str,
) -> Result<Arguments> {
    let takeover = config.takeover.as_micros().to_string();
    let group = config.is_group(spec);
    Ok(Arguments::default()
        .text(spec.name.as_str())
        .text(version)
        .text(write_spec(spec)?)
        .number(spec.lease.as_micros())
        .number(spec.retry.max_attempts)
        .text(start)
        .number(config.clock.now().as_nanos())
        .flag(spec.ephemeral)
        .text(write_patterns(&spec.patterns))
        .text(if group { &takeover } else { "" })
        .flag(spec.ordered))
}

/// Makes one again whose keys are gone, behind the last position up to which everything was settled;
/// refuses where an operator deleted it.
pub(crate) async fn restore(wire: &Wire, stored: &Stored, settled: Option<u128>) -> Result<()> {
    let spec = &stored.spec;
    let mut deleted = redis::cmd("HEXISTS");
    deleted.arg(wire.key("epochs")).arg(spec.name.as_str());
    if spec.ephemeral || wire.run::<bool>(&deleted).await? {
        return Err(unknown(&spec.name));
    }
    let start = hex(settled.unwrap_or(stored.base));
    let arguments = put_arguments(&wire.config, spec, "", &start)?.flag(true);
    if wire.script(&scripts::PUT, &arguments).await? == Value::BulkString(b"created".to_vec()) {
        let (stream, name) = (&wire.config.stream, &spec.name);
        tracing::error!(stream, subscription = %name, "the subscription was gone and is made again");
    }
    Ok(())
}

pub(crate) fn unknown(name: &SubscriptionName) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("there is no subscription `{name}`"),
    )
}

fn corrupt(name: &SubscriptionName) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("the stored subscription `{name}` cannot be read"),
    )
}
