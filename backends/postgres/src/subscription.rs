//! A subscription as PostgreSQL holds it.

use fanfare_core::error::Result;
use fanfare_core::pattern::{Pattern, PatternSet};
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use fanfare_fleet::{Interest, Stored, corrupt, read_spec, texts};
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use crate::connect::Database;
use crate::error::unexpected;

/// As `ff.part` writes it.
#[derive(Serialize, Deserialize)]
struct Part {
    after: i64,
    patterns: Vec<String>,
    types: String,
}

/// Reads it; none where there is no such subscription.
pub(crate) async fn load(database: &Database, name: &SubscriptionName) -> Result<Option<Stored>> {
    let rows = database
        .read(
            "SELECT name, version, spec, interest::text, base, frontier, claimed, paused, created
             FROM ff.subscription WHERE name = $1",
            &[&name.as_str()],
        )
        .await?;
    rows.first().map(read).transpose()
}

/// From a row that begins with the columns of [`load`].
pub(crate) fn read(row: &Row) -> Result<Stored> {
    let name: &str = row.try_get(0).map_err(|_| unexpected("a subscription"))?;
    let name = SubscriptionName::parse(name)?;
    parse(&name, row).ok_or_else(|| corrupt(&name))
}

fn parse(name: &SubscriptionName, row: &Row) -> Option<Stored> {
    let number = |at: usize| row.try_get::<_, i64>(at).ok();
    let parts: Vec<Part> = serde_json::from_str(row.try_get(3).ok()?).ok()?;
    let parts = parts
        .into_iter()
        .map(|part| (wide(part.after), part.patterns));
    Some(Stored {
        spec: read_spec(name, row.try_get(2).ok()?)?,
        version: u64::try_from(number(1)?).ok()?,
        interest: Interest::parse(parts)?,
        base: wide(number(4)?),
        frontier: wide(number(5)?),
        claimed: u64::try_from(number(6)?).ok()?,
        paused: row.try_get(7).ok()?,
        created: Timestamp::from_nanos(i128::from(number(8)?)),
    })
}

/// Its pattern sets, as `ff.part` writes them.
pub(crate) fn write_interest(stored: &Stored) -> Result<String> {
    let parts = stored.interest.parts().map(|(after, patterns)| Part {
        after: narrow(after),
        patterns: texts(patterns),
        types: types(patterns),
    });
    let parts: Vec<Part> = parts.collect();
    serde_json::to_string(&parts).map_err(|error| corrupt(&stored.spec.name).because(error))
}

/// A position of ours as one of the contract.
pub(crate) fn wide(position: i64) -> u128 {
    u128::try_from(position).unwrap_or(0)
}

/// A position of the contract as one of ours; what no log of ours reaches is cut off, with room for a
/// run behind it.
pub(crate) fn narrow(position: u128) -> i64 {
    const MOST: i64 = i64::MAX - (1 << 32);
    i64::try_from(position).map_or(MOST, |position| position.min(MOST))
}

/// A regular expression for `.` and an event type.
pub(crate) fn types(patterns: &PatternSet) -> String {
    let each: Vec<String> = patterns.iter().map(expression).collect();
    format!("^({})$", each.join("|"))
}

fn expression(pattern: &Pattern) -> String {
    let segments = pattern.segments().map(|segment| match segment {
        "**" => r"(\.[^.]+)*".to_owned(),
        "*" => r"\.[^.]+".to_owned(),
        literal => format!(r"\.{literal}"),
    });
    segments.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_expressions() {
        let patterns = ["a.*.b", "**.end", "one.>"];
        let set = PatternSet::parse(patterns).unwrap();
        let each: Vec<_> = set.iter().map(|p| (p.as_str(), expression(p))).collect();
        for (pattern, expected) in [
            ("a.*.b", r"\.a\.[^.]+\.b"),
            ("**.end", r"(\.[^.]+)*\.end"),
            ("one.*.**", r"\.one\.[^.]+(\.[^.]+)*"),
        ] {
            assert!(each.contains(&(pattern, expected.to_owned())), "{pattern}");
        }
    }
}
