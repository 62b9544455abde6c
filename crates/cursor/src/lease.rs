//! Leases: ranges of deliveries handed to one member, under one epoch, until a deadline.

use std::collections::{BTreeMap, BTreeSet};

use fanfare_core::consumer::MemberKind;
use fanfare_core::timestamp::Timestamp;

use crate::cursor::MemberId;
use crate::image::LeaseImage;

/// One grant of deliveries.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) member: MemberId,
    pub(crate) kind: MemberKind,
    until: Timestamp,
    /// Positions whose lease was extended on its own.
    later: BTreeMap<u64, Timestamp>,
    positions: Vec<u64>,
    done: Vec<u64>,
    remaining: usize,
}

impl Lease {
    pub(crate) fn new(
        member: MemberId,
        kind: MemberKind,
        until: Timestamp,
        positions: Vec<u64>,
    ) -> Self {
        let remaining = positions.len();
        let done = vec![0; remaining.div_ceil(64)];
        Self {
            member,
            kind,
            until,
            later: BTreeMap::new(),
            positions,
            done,
            remaining,
        }
    }

    fn index(&self, position: u64) -> Option<usize> {
        let first = *self.positions.first()?;
        // Most leases are dense: try the direct place before searching.
        let guess = usize::try_from(position.checked_sub(first)?).ok()?;
        if self.positions.get(guess) == Some(&position) {
            return Some(guess);
        }
        self.positions.binary_search(&position).ok()
    }

    fn is_done(&self, index: usize) -> bool {
        self.done
            .get(index / 64)
            .is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    /// Whether the position is still held; none when it was never part of this lease.
    pub(crate) fn holds(&self, position: u64) -> Option<bool> {
        self.index(position).map(|index| !self.is_done(index))
    }

    fn finish(&mut self, position: u64) {
        if let Some(index) = self.index(position)
            && !self.is_done(index)
            && let Some(word) = self.done.get_mut(index / 64)
        {
            *word |= 1 << (index % 64);
            self.remaining -= 1;
            self.later.remove(&position);
        }
    }

    /// The positions still held.
    pub(crate) fn remaining(&self) -> impl Iterator<Item = u64> {
        self.positions
            .iter()
            .enumerate()
            .filter(|(index, _)| !self.is_done(*index))
            .map(|(_, p)| *p)
    }

    pub(crate) fn until(&self) -> Timestamp {
        self.until
    }

    fn deadline(&self) -> Timestamp {
        if self.later.len() < self.remaining {
            self.until
        } else {
            self.later.values().min().copied().unwrap_or(self.until)
        }
    }

    fn over(&self, now: Timestamp) -> Vec<u64> {
        self.remaining()
            .filter(|p| self.later.get(p).copied().unwrap_or(self.until) <= now)
            .collect()
    }

    fn extend(&mut self, positions: &[u64], until: Timestamp) {
        let held = positions.iter().filter(|p| self.holds(**p) == Some(true));
        if held.clone().count() >= self.remaining {
            self.until = until;
            self.later.clear();
        } else {
            self.later
                .extend(held.copied().map(|p| (p, until)).collect::<Vec<_>>());
        }
    }
}

/// All leases by epoch, their deadlines, and what differs from the rows last written.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    all: BTreeMap<u64, Lease>,
    deadlines: BTreeSet<(Timestamp, u64)>,
    held: u64,
    dirty: BTreeSet<u64>,
    stored: BTreeSet<u64>,
}

impl Leases {
    pub(crate) fn get(&self, epoch: u64) -> Option<&Lease> {
        self.all.get(&epoch)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Lease)> {
        self.all.iter().map(|(epoch, lease)| (*epoch, lease))
    }

    pub(crate) fn insert(&mut self, epoch: u64, lease: Lease) {
        self.held += lease.remaining as u64;
        self.deadlines.insert((lease.deadline(), epoch));
        self.dirty.insert(epoch);
        self.all.insert(epoch, lease);
    }

    /// A lease as its row has it.
    pub(crate) fn adopt(&mut self, epoch: u64, lease: Lease) {
        self.insert(epoch, lease);
        self.dirty.remove(&epoch);
        self.stored.insert(epoch);
    }

    /// A row whose lease is over: it goes with the next commit.
    pub(crate) fn remove_stored(&mut self, epoch: u64) {
        self.stored.insert(epoch);
        self.dirty.insert(epoch);
    }

    /// Ends one position's lease; the lease goes with its last position.
    pub(crate) fn finish(&mut self, epoch: u64, position: u64) {
        let Some(lease) = self.all.get_mut(&epoch) else {
            return;
        };
        if lease.later.is_empty() && lease.remaining > 1 {
            // The deadline cannot change: spare the index.
            let before = lease.remaining;
            lease.finish(position);
            self.held -= (before - lease.remaining) as u64;
            self.dirty.insert(epoch);
            return;
        }
        self.change(epoch, |lease| lease.finish(position));
    }

    pub(crate) fn extend(&mut self, epoch: u64, positions: &[u64], until: Timestamp) {
        self.change(epoch, |lease| lease.extend(positions, until));
    }

    fn change(&mut self, epoch: u64, edit: impl FnOnce(&mut Lease)) {
        let Some(lease) = self.all.get_mut(&epoch) else {
            return;
        };
        self.deadlines.remove(&(lease.deadline(), epoch));
        let before = lease.remaining;
        edit(lease);
        self.held -= (before - lease.remaining) as u64;
        if lease.remaining == 0 {
            self.all.remove(&epoch);
        } else {
            self.deadlines.insert((lease.deadline(), epoch));
        }
        if self.all.contains_key(&epoch) || self.stored.contains(&epoch) {
            self.dirty.insert(epoch);
        } else {
            self.dirty.remove(&epoch);
        }
    }

    /// Takes every position whose lease is over at `now` out of its lease.
    pub(crate) fn expire(&mut self, now: Timestamp) -> Vec<(u64, u64)> {
        let over: Vec<u64> = self
            .deadlines
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, e)| *e)
            .collect();
        let mut expired = Vec::new();
        for epoch in over {
            let positions = self
                .all
                .get(&epoch)
                .map(|lease| lease.over(now))
                .unwrap_or_default();
            expired.extend(positions.iter().map(|position| (epoch, *position)));
        }
        expired
    }

    pub(crate) fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// How many positions are leased.
    pub(crate) fn held(&self) -> u64 {
        self.held
    }

    pub(crate) fn lowest(&self) -> Option<u64> {
        self.all
            .values()
            .filter_map(|lease| lease.remaining().next())
            .min()
    }

    pub(crate) fn holds(&self, position: u64) -> bool {
        self.all
            .values()
            .any(|lease| lease.holds(position) == Some(true))
    }

    pub(crate) fn clear(&mut self) {
        *self = Self {
            stored: std::mem::take(&mut self.stored),
            ..Self::default()
        };
        self.dirty.clone_from(&self.stored);
    }

    /// The epochs to write again, or to remove where there is no such lease any more.
    pub(crate) fn take_dirty(&mut self) -> Vec<u64> {
        let dirty = std::mem::take(&mut self.dirty);
        for epoch in &dirty {
            if self.all.contains_key(epoch) {
                self.stored.insert(*epoch);
            } else {
                self.stored.remove(epoch);
            }
        }
        dirty.into_iter().collect()
    }

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

    pub(crate) fn images(&self) -> Vec<LeaseImage> {
        let image = |(epoch, lease): (&u64, &Lease)| LeaseImage {
            epoch: *epoch,
            member: lease.member,
            kind: lease.kind,
            until: lease.until,
            later: lease.later.iter().map(|(p, at)| (*p, *at)).collect(),
            positions: lease.positions.clone(),
            done: lease.done.clone(),
        };
        self.all.iter().map(image).collect()
    }

    /// A lease that goes on; answers what it still holds.
    pub(crate) fn resume(&mut self, image: LeaseImage) -> Vec<u64> {
        let mut lease = Lease::new(image.member, image.kind, image.until, image.positions);
        let over = image.done.iter().map(|word| word.count_ones() as usize);
        lease.remaining = lease.remaining.saturating_sub(over.sum());
        lease.done = image.done;
        lease.later = image.later.into_iter().collect();
        let held = lease.remaining().collect();
        self.insert(image.epoch, lease);
        held
    }
}
