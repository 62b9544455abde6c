//! The counters of the conservation law, by block of positions, so that a breach can be placed and
//! a trimmed block can be closed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// How many positions a block has.
pub const BLOCK: u64 = 8192;

/// The block of a position.
pub fn block_of(position: u64) -> u64 {
    position / BLOCK
}

/// The positions of a block.
pub fn block_range(block: u64) -> RangeInclusive<u64> {
    block * BLOCK..=block * BLOCK + (BLOCK - 1)
}

/// What became of the matching events of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Settled with ack.
    pub acknowledged: u64,
    /// Dropped, or discarded as dead letters.
    pub dropped: u64,
    /// Dead letters now.
    pub dead: u64,
    /// Deliveries beyond one for each matching event: dead letters from before a seek, redriven.
    pub extra: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.dropped += other.dropped;
        self.dead += other.dead;
        self.extra += other.extra;
    }
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    blocks: BTreeMap<u64, Tally>,
    total: Tally,
    dirty: BTreeSet<u64>,
    /// The block last written to, so that a run of settlements does not search for it.
    last: Option<u64>,
}

impl Ledger {
    pub(crate) fn change(&mut self, position: u64, edit: impl Fn(&mut Tally)) {
        let block = block_of(position);
        edit(self.blocks.entry(block).or_default());
        edit(&mut self.total);
        if self.last != Some(block) {
            self.dirty.insert(block);
            self.last = Some(block);
        }
    }

    /// Whether the block of `position` has dead letters; not if it was closed.
    pub(crate) fn has_dead(&self, position: u64) -> bool {
        let tally = self.blocks.get(&block_of(position));
        tally.is_some_and(|tally| tally.dead > 0)
    }

    pub(crate) fn restore(&mut self, block: u64, tally: Tally) {
        self.total.add(tally);
        self.blocks.insert(block, tally);
    }

    pub(crate) fn total(&self) -> Tally {
        self.total
    }

    pub(crate) fn blocks(&self) -> impl Iterator<Item = (u64, Tally)> {
        self.blocks.iter().map(|(block, tally)| (*block, *tally))
    }

    /// Takes the blocks below `block` out; their sum.
    pub(crate) fn close_below(&mut self, block: u64) -> Tally {
        let kept = self.blocks.split_off(&block);
        let closed = std::mem::replace(&mut self.blocks, kept);
        let mut sum = Tally::default();
        for (block, tally) in closed {
            sum.add(tally);
            self.dirty.insert(block);
        }
        self.total.acknowledged -= sum.acknowledged;
        self.total.dropped -= sum.dropped;
        self.total.dead -= sum.dead;
        self.total.extra -= sum.extra;
        self.last = None;
        sum
    }

    pub(crate) fn clear(&mut self) {
        self.dirty.extend(self.blocks.keys());
        self.blocks.clear();
        self.total = Tally::default();
        self.last = None;
    }

    pub(crate) fn take_dirty(&mut self) -> Vec<(u64, Option<Tally>)> {
        self.last = None;
        std::mem::take(&mut self.dirty)
            .into_iter()
            .map(|b| (b, self.blocks.get(&b).copied()))
            .collect()
    }

    pub(crate) fn forget_stored(&mut self) {
        self.dirty = self.blocks.keys().copied().collect();
        self.last = None;
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(crate) fn clean(&mut self) {
        self.dirty.clear();
        self.last = None;
    }
}
