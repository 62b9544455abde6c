//! How many events of each type each block of the log holds. It is counted from the log, so that what a
//! subscription should have seen is known without asking the subscription, and without reading
//! millions of rows. A row is written when a block is complete; the open block is counted at start.

use std::collections::BTreeMap;

use fanfare_core::Result;
use fanfare_cursor::{block_of, block_range};
use hashbrown::HashMap;
use parking_lot::RwLock;
use rusqlite::Connection;

use crate::error;
use crate::row::{integer, unsigned};

/// Events by type number.
pub(crate) type Kinds = HashMap<u32, u64>;

/// Counts by block, the open one included.
#[derive(Debug, Default)]
pub(crate) struct Census(RwLock<BTreeMap<u64, Kinds>>);

impl Census {
    /// Reads the rows of complete blocks and counts what lies above them.
    pub(crate) fn load(db: &Connection) -> Result<Self> {
        let read = || -> rusqlite::Result<BTreeMap<u64, Kinds>> {
            let mut blocks: BTreeMap<u64, Kinds> = BTreeMap::new();
            let mut statement = db.prepare("SELECT block, type, events FROM census")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let kinds = blocks.entry(unsigned(row.get(0)?)).or_default();
                kinds.insert(row.get(1)?, unsigned(row.get(2)?));
            }
            let complete = blocks
                .last_key_value()
                .map(|(block, _)| *block_range(*block).end());
            for (block, kinds) in count(db, complete.unwrap_or(0), u64::MAX)? {
                blocks.insert(block, kinds);
            }
            Ok(blocks)
        };
        Ok(Self(RwLock::new(read().map_err(error::sqlite)?)))
    }

    /// Writes the blocks that end below `head`'s. `added` are the counts that this transaction adds.
    pub(crate) fn store(
        &self,
        tx: &Connection,
        added: &BTreeMap<u64, Kinds>,
        head: u64,
    ) -> rusqlite::Result<()> {
        let open = block_of(head);
        for (block, kinds) in self.unstored(added, open) {
            let mut insert = tx.prepare_cached(
                "INSERT OR REPLACE INTO census (block, type, events) VALUES (?1, ?2, ?3)",
            )?;
            let mut kinds: Vec<_> = kinds.into_iter().collect();
            kinds.sort_unstable();
            for (kind, events) in kinds {
                insert.execute((integer(block), kind, integer(events)))?;
            }
        }
        Ok(())
    }

    /// Takes in what a committed transaction added.
    pub(crate) fn add(&self, added: BTreeMap<u64, Kinds>) {
        let mut blocks = self.0.write();
        for (block, kinds) in added {
            let entry = blocks.entry(block).or_default();
            merge(entry, kinds);
        }
    }

    /// Forgets the blocks below `block`.
    pub(crate) fn forget_below(&self, block: u64) {
        let mut blocks = self.0.write();
        *blocks = blocks.split_off(&block);
    }

    /// The blocks from `first` to `last`, with their counts.
    pub(crate) fn between(&self, first: u64, last: u64) -> Vec<(u64, Kinds)> {
        if first > last {
            return Vec::new();
        }
        let blocks = self.0.read();
        let found = blocks.range(first..=last);
        found
            .map(|(block, kinds)| (*block, kinds.clone()))
            .collect()
    }

    /// How many events are kept.
    pub(crate) fn events(&self) -> u64 {
        self.0.read().values().flat_map(HashMap::values).sum()
    }

    /// Blocks below `open` that this transaction finishes: all their counts, old and new.
    fn unstored(&self, added: &BTreeMap<u64, Kinds>, open: u64) -> Vec<(u64, Kinds)> {
        let blocks = self.0.read();
        let mut complete = Vec::new();
        let Some(first_new) = added.keys().next().copied() else {
            return complete;
        };
        // The block that was open before this transaction may get no event from it and still end.
        let was_open = blocks
            .last_key_value()
            .map_or(first_new, |(block, _)| *block);
        for block in was_open.min(first_new)..open {
            let mut kinds = blocks.get(&block).cloned().unwrap_or_default();
            if let Some(new) = added.get(&block) {
                merge(&mut kinds, new.clone());
            }
            complete.push((block, kinds));
        }
        complete
    }
}

/// Counts the log itself, above `after` and up to `last`.
fn count(db: &Connection, after: u64, last: u64) -> rusqlite::Result<BTreeMap<u64, Kinds>> {
    let mut blocks = BTreeMap::new();
    each(db, after, last, |position, kind| {
        note(&mut blocks, position, kind);
    })?;
    Ok(blocks)
}

/// Position and type number of each event above `after` and up to `last`, from the log itself.
pub(crate) fn each(
    db: &Connection,
    after: u64,
    last: u64,
    mut see: impl FnMut(u64, u32),
) -> rusqlite::Result<()> {
    let mut statement =
        db.prepare_cached("SELECT pos, type FROM log WHERE pos > ?1 AND pos <= ?2 ORDER BY pos")?;
    let mut rows = statement.query((integer(after), integer(last)))?;
    while let Some(row) = rows.next()? {
        see(unsigned(row.get(0)?), row.get(1)?);
    }
    Ok(())
}

/// Adds up counts of `kind` at `position`.
pub(crate) fn note(added: &mut BTreeMap<u64, Kinds>, position: u64, kind: u32) {
    *added
        .entry(block_of(position))
        .or_default()
        .entry(kind)
        .or_default() += 1;
}

fn merge(into: &mut Kinds, kinds: Kinds) {
    for (kind, events) in kinds {
        *into.entry(kind).or_default() += events;
    }
}
