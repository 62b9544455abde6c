//! Order: on the ordered subscription an event is not delivered before the one ahead of it, of the
//! same key, was settled for good. Other keys do not matter, and retries do not help.

use std::collections::BTreeMap;

use super::{Lease, Standing};
use crate::chaos::load::{ORDERED, key};

/// By subscription and event.
type Leases = BTreeMap<(String, String), Vec<Lease>>;

/// `history` is in the order of the positions.
pub(super) fn check(history: &[(String, String)], leases: &Leases) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut ahead: BTreeMap<u64, (&str, u64)> = BTreeMap::new();
    for (id, _) in history {
        let Some(leases) = leases.get(&(ORDERED.to_owned(), id.clone())) else {
            continue;
        };
        let delivered = leases.first().map_or(u64::MAX, |lease| lease.line);
        if let Some((earlier, ended)) = ahead.get(&key(id))
            && delivered < *ended
        {
            wrong.push(format!("{ORDERED}: {id} came before {earlier} was settled"));
        }
        if let Some(ended) = ended(leases) {
            ahead.insert(key(id), (id, ended));
        }
    }
    wrong
}

/// The line of the settlement that ended the event: the accepted one, or else the first one that
/// may have been.
fn ended(leases: &[Lease]) -> Option<u64> {
    let accepted = |lease: &&Lease| matches!(lease.standing, Standing::Accepted { .. });
    let doubtful = |lease: &&Lease| matches!(lease.standing, Standing::Doubtful { .. });
    let ends = |lease: &Lease| lease.ending;
    let accepted = leases.iter().filter(accepted).find_map(ends);
    accepted.or_else(|| leases.iter().filter(doubtful).filter_map(ends).min())
}
