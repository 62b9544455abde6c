//! A subscription as it stands on the server: one record that is written whole, over the one it was
//! made from or not at all. How it becomes bytes is in [`bytes`].

mod bytes;

use std::collections::{BTreeMap, BTreeSet};

use fanfare_core::error::Result;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{OnDead, SubscriptionName, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::{Cursor, Options, block_of};
use fanfare_fleet::{Interest, Stored, texts};

pub(crate) use self::bytes::{decode, encode};

/// The most events that may stand behind their keys.
const MAX_BLOCKED: usize = 10_000;

/// Which dead letter of a subscription: position and generation of the cursor.
pub(crate) type LetterKey = (u64, u64);

/// What the record knows of a dead letter; the rest is a message of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dead {
    /// When it died, in milliseconds.
    pub(crate) at: u64,
    /// Tells the messages of different writers apart.
    pub(crate) tag: u32,
}

/// Everything about one subscription.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) spec: SubscriptionSpec,
    /// Changes with the spec, the patterns and the place.
    pub(crate) version: u64,
    pub(crate) interest: Interest,
    pub(crate) created: Timestamp,
    pub(crate) paused: bool,
    pub(crate) cursor: Cursor,
    pub(crate) dead: BTreeMap<LetterKey, Dead>,
    /// Redriven letters, by position: their events may be edited, or gone from the log.
    pub(crate) redriven: BTreeMap<u64, (LetterKey, Dead)>,
    /// Events up to here were removed from the log, or are about to be.
    pub(crate) trimmed: u64,
    /// How many matching events of each block were.
    pub(crate) removed: BTreeMap<u64, u64>,
    /// The last write of each of the processes that wrote lately.
    pub(crate) marks: Vec<(u64, u64)>,
}

impl Record {
    /// A new one that begins behind `base`.
    pub(crate) fn new(spec: SubscriptionSpec, created: Timestamp, base: u64) -> Result<Self> {
        // No epoch of an earlier life of this name is handed out again.
        let epoch = u64::try_from(created.as_micros()).unwrap_or(0);
        let interest = Interest::parse([(0, texts(&spec.patterns))]);
        let interest = interest.ok_or_else(|| fanfare_fleet::corrupt(&spec.name))?;
        Ok(Self {
            cursor: Cursor::new(options(&spec), base, epoch),
            spec,
            version: epoch,
            interest,
            created,
            paused: false,
            dead: BTreeMap::new(),
            redriven: BTreeMap::new(),
            trimmed: 0,
            removed: BTreeMap::new(),
            marks: Vec::new(),
        })
    }

    /// As members know it.
    pub(crate) fn stored(&self) -> Stored {
        let place = self.cursor.place();
        let tally = self.cursor.tally();
        Stored {
            spec: self.spec.clone(),
            version: self.version,
            interest: self.interest.clone(),
            base: place.base.into(),
            frontier: place.frontier.into(),
            claimed: tally.acknowledged
                + tally.dropped
                + tally.dead
                + self.cursor.in_flight()
                + self.cursor.waiting(),
            paused: self.paused,
            created: self.created,
        }
    }

    /// Other options from now on.
    pub(crate) fn change(&mut self, spec: SubscriptionSpec) {
        self.cursor.set_options(options(&spec));
        self.spec = spec;
        self.version += 1;
    }

    /// Other patterns for events behind `after`.
    pub(crate) fn change_patterns(&mut self, patterns: &PatternSet, after: u64) {
        let after = u128::from(after);
        let earlier = self.interest.parts().filter(|(from, _)| *from < after);
        let earlier = earlier.map(|(from, patterns)| (from, texts(patterns)));
        let parts: Vec<_> = earlier.chain([(after, texts(patterns))]).collect();
        if let Some(interest) = Interest::parse(parts) {
            self.interest = interest;
        }
        self.spec.patterns = patterns.clone();
        self.version += 1;
    }

    /// Goes on behind `base`; dead letters stay.
    pub(crate) fn seek(&mut self, base: u64) {
        self.cursor.seek(base);
        self.redriven.clear();
        self.removed.clear();
        self.version += 1;
    }

    /// Takes out what was redriven and is settled by now.
    pub(crate) fn settled_redriven(&mut self) -> Vec<(LetterKey, Dead)> {
        let cursor = &self.cursor;
        let settled: BTreeSet<u64> = self
            .redriven
            .keys()
            .copied()
            .filter(|position| cursor.standing(*position).is_none())
            .collect();
        let taken = settled.iter().filter_map(|at| self.redriven.remove(at));
        taken.collect()
    }

    /// The last position that is not among the events of this record any more.
    pub(crate) fn counted_after(&self) -> u64 {
        self.cursor.place().base.max(self.trimmed)
    }

    /// Sums up the books of blocks whose events are all gone and settled.
    pub(crate) fn close_books(&mut self) {
        let kept = block_of(self.trimmed + 1);
        let is_settled = self.cursor.lowest_unsettled() > self.trimmed;
        let mut blocks = self.removed.keys();
        if is_settled && blocks.next().is_some_and(|block| *block < kept) {
            self.removed = self.removed.split_off(&kept);
            self.cursor.close_below(kept);
        }
    }

    /// Notes that the process `who` wrote, for the how many-th time.
    pub(crate) fn mark(&mut self, who: u64, serial: u64) {
        self.marks.retain(|(process, _)| *process != who);
        self.marks.push((who, serial));
        if self.marks.len() > MARKS {
            self.marks.remove(0);
        }
    }

    pub(crate) fn has_mark(&self, who: u64, serial: u64) -> bool {
        self.marks.contains(&(who, serial))
    }
}

/// How many processes are remembered as writers.
const MARKS: usize = 64;

pub(crate) fn options(spec: &SubscriptionSpec) -> Options {
    Options {
        ordered: spec.ordered,
        park: spec.on_dead == OnDead::Park,
        lease: spec.lease,
        max_attempts: spec.retry.max_attempts,
        dead_letter: spec.dead_letter,
        max_blocked: MAX_BLOCKED,
    }
}

/// The name of a letter's message among those of its subscription.
pub(crate) fn letter_name((position, generation): LetterKey, dead: Dead) -> String {
    format!("{position}.{generation}.{}", dead.tag)
}

/// The id of a letter: they sort by when they died.
pub(crate) fn letter_id(name: &SubscriptionName, key: LetterKey, dead: Dead) -> String {
    let (position, generation) = key;
    format!(
        "{:013}-{position:020}-{generation}-{:08x}-{name}",
        dead.at, dead.tag
    )
}

/// What [`letter_id`] wrote.
pub(crate) fn read_letter_id(id: &str) -> Option<(SubscriptionName, LetterKey, Dead)> {
    let mut parts = id.splitn(5, '-');
    let at = parts.next()?.parse().ok()?;
    let position = parts.next()?.parse().ok()?;
    let generation = parts.next()?.parse().ok()?;
    let tag = u32::from_str_radix(parts.next()?, 16).ok()?;
    let name = SubscriptionName::parse(parts.next()?).ok()?;
    let dead = Dead { at, tag };
    let key = (position, generation);
    (letter_id(&name, key, dead) == id).then_some((name, key, dead))
}
