//! A subscription as Redis holds it.

use std::collections::HashMap;

use fanfare_core::error::Result;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{SubscriptionName, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;
use fanfare_fleet::{Interest, corrupt, read_spec, texts};
use redis::Value;

use crate::config::RedisConfig;
use crate::connect::{Arguments, Wire};
use crate::frame::Slot;
use crate::place::{from_hex, hex};
use crate::scripts;

pub(crate) use fanfare_fleet::{unknown, write_spec};

pub(crate) fn write_patterns(patterns: &PatternSet) -> String {
    serde_json::Value::from(texts(patterns)).to_string()
}

/// Everything about a subscription but its deliveries.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) spec: SubscriptionSpec,
    /// Changes with the spec, the patterns and the place.
    pub(crate) version: String,
    interest: Interest,
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
            interest.push((from_hex(&after)?, serde_json::from_str(&patterns).ok()?));
        }
        Some(Self {
            spec: read_spec(name, fields.get("spec")?)?,
            version: fields.get("ver")?.clone(),
            interest: Interest::parse(interest)?,
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
            Slot::Event(event) => self.interest.matches(position, event.event_type()),
            Slot::Raw(_) => true,
        }
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
