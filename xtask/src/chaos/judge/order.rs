//! Order: on the ordered subscription an event is not delivered before the one ahead of it, of the
//! same key, was settled for good. Other keys do not matter, and retries do not help.
//!
//! A death may take settlements along that nobody was told about. Both events then come again, and
//! again in order: that is checked too.

use std::collections::BTreeMap;

use super::{Lease, Standing};
use crate::chaos::load::{ORDERED, key};

/// By subscription and event.
type Leases = BTreeMap<(String, String), Vec<Lease>>;

/// The life of one event on the ordered subscription, in lines of the record.
#[derive(Debug, Clone, Copy)]
struct Life<'a> {
    id: &'a str,
    /// First delivered.
    came: u64,
    /// A final settlement was sent for the first time that may have counted.
    ended: Option<u64>,
    /// The delivery whose settlement counted for certain, and that settlement.
    certain: Option<(u64, u64)>,
}

/// `history` is in the order of the positions.
pub(super) fn check(history: &[(String, String)], leases: &Leases) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut ahead: BTreeMap<u64, Life<'_>> = BTreeMap::new();
    for (id, _) in history {
        let Some(leases) = leases.get(&(ORDERED.to_owned(), id.clone())) else {
            continue;
        };
        let life = life(id, leases);
        if let Some(earlier) = ahead.insert(key(id), life)
            && overtook(&life, &earlier)
        {
            wrong.push(format!(
                "{ORDERED}: {id} came before {} was settled",
                earlier.id
            ));
        }
    }
    wrong
}

fn overtook(later: &Life<'_>, earlier: &Life<'_>) -> bool {
    let first = earlier.ended.is_some_and(|ended| later.came < ended);
    let last = match (later.certain, earlier.certain) {
        (Some((came, _)), Some((_, ended))) => came < ended,
        _ => false,
    };
    first || last
}

fn life<'a>(id: &'a str, leases: &[Lease]) -> Life<'a> {
    let may_count = |lease: &&Lease| lease.standing != Standing::Lost;
    let certain = |lease: &Lease| match lease.standing {
        Standing::Accepted { .. } => Some((lease.line, lease.ending?)),
        _ => None,
    };
    Life {
        id,
        came: leases.first().map_or(u64::MAX, |lease| lease.line),
        ended: leases
            .iter()
            .filter(may_count)
            .filter_map(|lease| lease.ending)
            .min(),
        certain: leases.iter().find_map(certain),
    }
}
