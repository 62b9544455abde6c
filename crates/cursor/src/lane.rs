//! Key lanes of an ordered subscription: per key one event is out, the later ones stand behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;

/// One key's queue.
#[derive(Debug, Default)]
struct Lane {
    /// Unsettled, or the dead letter that the key is parked behind.
    head: u64,
    behind: BTreeSet<u64>,
}

/// All lanes that are not empty.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: HashMap<Arc<str>, Lane>,
    parked: BTreeMap<u64, Arc<str>>,
}

impl Lanes {
    /// Puts a position into its lane; whether it is the head, and so may be claimed.
    pub(crate) fn enter(&mut self, key: &Arc<str>, position: u64) -> bool {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.behind.insert(position);
            return false;
        }
        self.lanes.insert(
            Arc::clone(key),
            Lane {
                head: position,
                behind: BTreeSet::new(),
            },
        );
        true
    }

    /// The head is settled for good: the next position of the key, now its head.
    pub(crate) fn leave(&mut self, key: &Arc<str>, position: u64) -> Option<u64> {
        let lane = self.lanes.get_mut(key)?;
        if lane.head != position {
            lane.behind.remove(&position);
            return None;
        }
        if let Some(next) = lane.behind.pop_first() {
            lane.head = next;
            return Some(next);
        }
        self.lanes.remove(key);
        None
    }

    /// The head died, and its key waits for what becomes of it.
    pub(crate) fn park(&mut self, key: &Arc<str>, position: u64) {
        self.parked.insert(position, Arc::clone(key));
    }

    /// The dead letter at `position` came back or went; the key that was parked behind it.
    pub(crate) fn unpark(&mut self, position: u64) -> Option<Arc<str>> {
        self.parked.remove(&position)
    }

    pub(crate) fn parked(&self) -> impl Iterator<Item = (u64, &Arc<str>)> {
        self.parked.iter().map(|(position, key)| (*position, key))
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
