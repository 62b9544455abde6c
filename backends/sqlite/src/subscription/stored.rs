//! How a subscription's options are stored: JSON in one column. Members are only ever added, with a
//! default.

use std::time::Duration;

use fanfare_core::pattern::PatternSet;
use fanfare_core::position::Position;
use fanfare_core::retry::RetryPolicy;
use fanfare_core::subscription::{OnDead, Start, SubscriptionName, SubscriptionSpec};
use fanfare_core::timestamp::{Timestamp, duration};
use fanfare_core::{Error, ErrorKind, Result};
use fanfare_cursor::Interest;
use serde::{Deserialize, Serialize};

use crate::error;

#[derive(Serialize, Deserialize)]
struct Stored {
    /// Each pattern set with the first position it holds for.
    patterns: Vec<(u64, PatternSet)>,
    start: StoredStart,
    ordered: bool,
    on_dead: OnDead,
    #[serde(with = "duration")]
    lease: Duration,
    retry: RetryPolicy,
    dead_letter: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredStart {
    Earliest,
    Latest,
    Time(Timestamp),
    After(Position),
}

/// The column of a subscription.
pub(crate) fn write(spec: &SubscriptionSpec, interest: &Interest) -> Result<String> {
    let stored = Stored {
        patterns: interest.parts().to_vec(),
        start: match spec.start {
            Start::Earliest => StoredStart::Earliest,
            Start::Latest => StoredStart::Latest,
            Start::Time(time) => StoredStart::Time(time),
            Start::After(position) => StoredStart::After(position),
        },
        ordered: spec.ordered,
        on_dead: spec.on_dead,
        lease: spec.lease,
        retry: spec.retry.clone(),
        dead_letter: spec.dead_letter,
    };
    serde_json::to_string(&stored)
        .map_err(|e| Error::new(ErrorKind::Internal, "a subscription does not encode").because(e))
}

/// The subscription of a column.
pub(crate) fn read(name: &str, column: &str) -> Result<(SubscriptionSpec, Interest)> {
    let bad = |e: String| error::corrupt(format!("subscription `{name}` does not read: {e}"));
    let stored: Stored = serde_json::from_str(column).map_err(|e| bad(e.to_string()))?;
    let patterns = stored.patterns.last().map(|(_, patterns)| patterns.clone());
    let spec = SubscriptionSpec {
        name: SubscriptionName::parse(name).map_err(|e| bad(e.to_string()))?,
        patterns: patterns.ok_or_else(|| bad("no patterns".into()))?,
        start: match stored.start {
            StoredStart::Earliest => Start::Earliest,
            StoredStart::Latest => Start::Latest,
            StoredStart::Time(time) => Start::Time(time),
            StoredStart::After(position) => Start::After(position),
        },
        ordered: stored.ordered,
        on_dead: stored.on_dead,
        lease: stored.lease,
        retry: stored.retry,
        dead_letter: stored.dead_letter,
        ephemeral: false,
    };
    Ok((spec, Interest::from_parts(stored.patterns)))
}
