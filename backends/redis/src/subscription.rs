//! A subscription as Redis holds it.

use std::collections::HashMap;

use fanfare_core::error::Result;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{SubscriptionName, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;
use fanfare_fleet::{Interest, Stored, corrupt, read_spec, texts};
use redis::Value;

use crate::config::RedisConfig;
use crate::connect::{Arguments, Wire};
use crate::place::{from_hex, hex};
use crate::scripts;

pub(crate) use fanfare_fleet::{unknown, write_spec};

pub(crate) fn write_patterns(patterns: &PatternSet) -> String {
    serde_json::Value::from(texts(patterns)).to_string()
}

/// Reads it, and whether it is a consumer group of Redis; none where there is no such subscription.
pub(crate) async fn load(wire: &Wire, name: &SubscriptionName) -> Result<Option<(Stored, bool)>> {
    let mut all = redis::cmd("HGETALL");
    all.arg(wire.key(&format!("s:{name}:m")));
    let fields: HashMap<String, String> = wire.run(&all).await?;
    if fields.is_empty() {
        return Ok(None);
    }
    read(name, &fields).map(Some)
}

/// Whether there is such a subscription and it is a consumer group of Redis.
pub(crate) async fn is_group(wire: &Wire, name: &SubscriptionName) -> Result<bool> {
    let mut group = redis::cmd("HEXISTS");
    group.arg(wire.key(&format!("s:{name}:m"))).arg("group");
    wire.run(&group).await
}

/// From the fields of its hash.
pub(crate) fn read(
    name: &SubscriptionName,
    fields: &HashMap<String, String>,
) -> Result<(Stored, bool)> {
    let stored = parse(name, fields).ok_or_else(|| corrupt(name))?;
    Ok((stored, fields.contains_key("group")))
}

fn parse(name: &SubscriptionName, fields: &HashMap<String, String>) -> Option<Stored> {
    let parts: Vec<(String, String)> = serde_json::from_str(fields.get("interest")?).ok()?;
    let mut interest = Vec::with_capacity(parts.len());
    for (after, patterns) in parts {
        interest.push((from_hex(&after)?, serde_json::from_str(&patterns).ok()?));
    }
    Some(Stored {
        spec: read_spec(name, fields.get("spec")?)?,
        version: fields.get("ver")?.parse().ok()?,
        interest: Interest::parse(interest)?,
        base: from_hex(fields.get("base")?)?,
        frontier: from_hex(fields.get("frontier")?)?,
        claimed: fields.get("claimed")?.parse().ok()?,
        paused: fields.get("paused")? == "1",
        created: Timestamp::from_nanos(fields.get("created")?.parse().ok()?),
    })
}

/// What creates it (without a version) or changes its options.
pub(crate) fn put_arguments(
    config: &RedisConfig,
    spec: &SubscriptionSpec,
    version: Option<u64>,
    start: &str,
) -> Result<Arguments> {
    let takeover = config.takeover.as_micros().to_string();
    let group = config.is_group(spec);
    Ok(Arguments::default()
        .text(spec.name.as_str())
        .text(version.map_or_else(String::new, |version| version.to_string()))
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
    let arguments = put_arguments(&wire.config, spec, None, &start)?.flag(true);
    if wire.script(&scripts::PUT, &arguments).await? == Value::BulkString(b"created".to_vec()) {
        let (stream, name) = (&wire.config.stream, &spec.name);
        tracing::error!(stream, subscription = %name, "the subscription was gone and is made again");
    }
    Ok(())
}
