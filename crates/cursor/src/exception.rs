//! What is unsettled below the frontier and is more than a fresh lease: retries, returned
//! deliveries, suspects, and events behind their key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fanfare_core::timestamp::Timestamp;

/// Where an unsettled position stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Leased, by the lease of this epoch.
    Leased(u64),
    /// Waits for its retry.
    Waiting(Timestamp),
    /// Can be claimed now.
    Ready,
    /// Its member died; it comes alone.
    Suspect,
    /// Stands behind an earlier event of its key.
    Blocked,
}

/// One unsettled position with its story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    /// Where it stands.
    pub standing: Standing,
    /// Attempts counted so far.
    pub attempts: u32,
    /// Whether the attempt that runs now is among `attempts` already.
    pub charged: bool,
    /// When it first failed, if it did.
    pub first_failure: Option<Timestamp>,
    /// What failed last.
    pub error: String,
    /// The ordering key, on ordered subscriptions.
    pub key: Option<Arc<str>>,
}

impl Exception {
    pub(crate) fn new(standing: Standing, key: Option<Arc<str>>) -> Self {
        Self {
            standing,
            attempts: 0,
            charged: false,
            first_failure: None,
            error: String::new(),
            key,
        }
    }
}

/// All exceptions, with an index for each standing that is searched, and what differs from the
/// rows last written.
#[derive(Debug, Default)]
pub(crate) struct Exceptions {
    all: BTreeMap<u64, Exception>,
    due: BTreeSet<(Timestamp, u64)>,
    ready: BTreeSet<u64>,
    suspects: BTreeSet<u64>,
    blocked: usize,
    leased: usize,
    dirty: BTreeSet<u64>,
    stored: BTreeSet<u64>,
}

impl Exceptions {
    pub(crate) fn get(&self, position: u64) -> Option<&Exception> {
        self.all.get(&position)
    }

    pub(crate) fn first(&self) -> Option<u64> {
        self.all.keys().next().copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Exception)> {
        self.all
            .iter()
            .map(|(position, exception)| (*position, exception))
    }

    /// Adds or replaces.
    pub(crate) fn put(&mut self, position: u64, exception: Exception) {
        self.unindex(position);
        match exception.standing {
            Standing::Waiting(due) => {
                self.due.insert((due, position));
            }
            Standing::Ready => {
                self.ready.insert(position);
            }
            Standing::Suspect => {
                self.suspects.insert(position);
            }
            Standing::Blocked => self.blocked += 1,
            Standing::Leased(_) => self.leased += 1,
        }
        self.all.insert(position, exception);
        self.dirty.insert(position);
    }

    /// Changes the standing; the rest stays.
    pub(crate) fn stand(&mut self, position: u64, standing: Standing) {
        if let Some(mut exception) = self.all.get(&position).cloned() {
            exception.standing = standing;
            self.put(position, exception);
        }
    }

    pub(crate) fn remove(&mut self, position: u64) -> Option<Exception> {
        self.unindex(position);
        let removed = self.all.remove(&position);
        if self.stored.contains(&position) {
            self.dirty.insert(position);
        } else {
            self.dirty.remove(&position);
        }
        removed
    }

    /// Positions that can be claimed at `now`: retries that are due first, the longest overdue
    /// first, then returned deliveries in publish order.
    pub(crate) fn claimable(&self, now: Timestamp, max: usize) -> Vec<u64> {
        let due = self
            .due
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, position)| *position);
        due.chain(self.ready.iter().copied()).take(max).collect()
    }

    pub(crate) fn is_claimable(&self, position: u64, now: Timestamp) -> bool {
        match self.all.get(&position).map(|e| e.standing) {
            Some(Standing::Ready) => true,
            Some(Standing::Waiting(due)) => due <= now,
            _ => false,
        }
    }

    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(due, _)| *due)
    }

    pub(crate) fn first_suspect(&self) -> Option<u64> {
        self.suspects.first().copied()
    }

    pub(crate) fn blocked(&self) -> usize {
        self.blocked
    }

    /// How many are not leased.
    pub(crate) fn waiting(&self) -> u64 {
        (self.all.len() - self.leased) as u64
    }

    pub(crate) fn clear(&mut self) {
        *self = Self {
            stored: std::mem::take(&mut self.stored),
            ..Self::default()
        };
        self.dirty.clone_from(&self.stored);
    }

    /// What to write: the exception, or none where its row goes.
    pub(crate) fn take_dirty(&mut self) -> Vec<(u64, Option<Exception>)> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut changes = Vec::with_capacity(dirty.len());
        for position in dirty {
            let now = self.all.get(&position).cloned();
            if now.is_some() {
                self.stored.insert(position);
            } else {
                self.stored.remove(&position);
            }
            changes.push((position, now));
        }
        changes
    }

    /// Everything is to be written again, into a table that holds none of our rows.
    pub(crate) fn forget_stored(&mut self) {
        self.stored.clear();
        self.dirty = self.all.keys().copied().collect();
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(crate) fn clean(&mut self) {
        self.dirty.clear();
        self.stored = self.all.keys().copied().collect();
    }

    fn unindex(&mut self, position: u64) {
        match self.all.get(&position).map(|e| e.standing) {
            Some(Standing::Waiting(due)) => {
                self.due.remove(&(due, position));
            }
            Some(Standing::Ready) => {
                self.ready.remove(&position);
            }
            Some(Standing::Suspect) => {
                self.suspects.remove(&position);
            }
            Some(Standing::Blocked) => self.blocked -= 1,
            Some(Standing::Leased(_)) => self.leased -= 1,
            None => {}
        }
    }
}
