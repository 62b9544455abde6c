//! The log: a dense run of the newest events, and before it the few old ones that somebody still
//! needs. An index over (source, id) finds duplicates for as long as an event is kept.

use std::collections::{BTreeMap, VecDeque};
use std::hash::BuildHasher;
use std::ops::Bound;

use fanfare_core::event::Event;
use fanfare_core::timestamp::Timestamp;
use hashbrown::{DefaultHashBuilder, HashTable};

/// An event with the time of its append.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) event: Event,
    pub(crate) recorded: Timestamp,
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    old: BTreeMap<u64, Slot>,
    dense: VecDeque<Slot>,
    /// The position before the first of `dense`.
    below: u64,
    /// Hash and position: growing must not touch the events.
    identities: HashTable<(u64, u64)>,
    hasher: DefaultHashBuilder,
    bytes: usize,
}

impl Log {
    /// The newest position.
    pub(crate) fn head(&self) -> u64 {
        self.below + self.dense.len() as u64
    }

    pub(crate) fn len(&self) -> usize {
        self.old.len() + self.dense.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The oldest position kept.
    pub(crate) fn first(&self) -> Option<u64> {
        let dense = (!self.dense.is_empty()).then_some(self.below + 1);
        self.old.keys().next().copied().or(dense)
    }

    pub(crate) fn get(&self, position: u64) -> Option<&Slot> {
        match position.checked_sub(self.below + 1) {
            Some(index) => self.dense.get(usize::try_from(index).ok()?),
            None => self.old.get(&position),
        }
    }

    /// The position of the event with the same source and id, or the hash to append it with.
    pub(crate) fn find(&self, event: &Event) -> Result<u64, u64> {
        let hash = self.hash(event);
        let same = |(stored, position): &(u64, u64)| {
            *stored == hash
                && self
                    .get(*position)
                    .is_some_and(|slot| same_identity(&slot.event, event))
        };
        self.identities
            .find(hash, same)
            .map(|(_, position)| *position)
            .ok_or(hash)
    }

    pub(crate) fn append(&mut self, event: Event, hash: u64, recorded: Timestamp) -> u64 {
        self.bytes += event.size();
        self.dense.push_back(Slot { event, recorded });
        let position = self.head();
        self.identities
            .insert_unique(hash, (hash, position), |(hash, _)| *hash);
        position
    }

    /// The oldest of the dense run.
    pub(crate) fn oldest_dense(&self) -> Option<u64> {
        (!self.dense.is_empty()).then_some(self.below + 1)
    }

    /// Drops the oldest of the dense run, or an event that was kept aside.
    pub(crate) fn evict(&mut self, position: u64) -> Option<Slot> {
        let hash = self.hash(&self.get(position)?.event);
        if let Ok(entry) = self.identities.find_entry(hash, |(_, p)| *p == position) {
            entry.remove();
        }
        let slot = if self.oldest_dense() == Some(position) {
            self.below += 1;
            self.dense.pop_front()
        } else {
            self.old.remove(&position)
        }?;
        self.bytes -= slot.event.size();
        Some(slot)
    }

    /// Keeps the oldest of the dense run aside, because somebody still needs it.
    pub(crate) fn set_aside(&mut self) {
        if let Some(slot) = self.dense.pop_front() {
            self.below += 1;
            self.old.insert(self.below, slot);
        }
    }

    /// Positions kept aside.
    pub(crate) fn aside(&self) -> Vec<u64> {
        self.old.keys().copied().collect()
    }

    /// Events after `position`, ascending.
    pub(crate) fn after(&self, position: u64) -> impl Iterator<Item = (u64, &Slot)> {
        let skip = usize::try_from(position.saturating_sub(self.below)).unwrap_or(usize::MAX);
        let dense = self
            .dense
            .iter()
            .skip(skip)
            .zip(self.below.max(position) + 1..);
        let old = self
            .old
            .range((Bound::Excluded(position), Bound::Unbounded));
        old.map(|(position, slot)| (*position, slot))
            .chain(dense.map(|(slot, position)| (position, slot)))
    }

    /// Events before `position`, descending.
    pub(crate) fn before(&self, position: u64) -> impl Iterator<Item = (u64, &Slot)> {
        let take = usize::try_from(position.saturating_sub(self.below + 1)).unwrap_or(usize::MAX);
        let take = take.min(self.dense.len());
        let positions = (self.below + 1..=self.below + take as u64).rev();
        let dense = positions.zip(self.dense.range(..take).rev());
        let old = self.old.range(..position).rev();
        dense.chain(old.map(|(position, slot)| (*position, slot)))
    }

    fn hash(&self, event: &Event) -> u64 {
        self.hasher.hash_one((event.source(), event.id()))
    }
}

fn same_identity(a: &Event, b: &Event) -> bool {
    a.id() == b.id() && a.source() == b.source()
}
