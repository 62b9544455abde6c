//! A subscription in memory: its cursor, its patterns, and the dead letters that are being delivered
//! again. Everything here changes under one lock and is written by the commit that follows.

pub(crate) mod stored;

use std::collections::BTreeMap;
use std::sync::Arc;

use fanfare_core::consumer::MemberKind;
use fanfare_core::delivery::{Receipt, Settled, Settlement};
use fanfare_core::event_type::EventType;
use fanfare_core::subscription::{OnDead, SubscriptionName, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;
use fanfare_core::{Error, ErrorKind, Result};
use fanfare_cursor::changes::Changes;
use fanfare_cursor::{Cursor, Interest, MemberId, Options, Plan};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::consume::ahead::Ahead;

/// The most events of one subscription that stand behind their keys.
const MAX_BLOCKED: usize = 10_000;

/// One subscription.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// Its number on disk; none for one that lives in this process only.
    pub(crate) number: Option<i64>,
    pub(crate) name: SubscriptionName,
    pub(crate) created: Timestamp,
    pub(crate) live: Mutex<Live>,
    /// Held by the one member that reads ahead from disk.
    pub(crate) reading: tokio::sync::Mutex<()>,
    wake: watch::Sender<()>,
}

/// What changes.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) spec: SubscriptionSpec,
    pub(crate) interest: Interest,
    pub(crate) cursor: Cursor,
    pub(crate) paused: bool,
    /// Deleted: its consumers end.
    pub(crate) gone: bool,
    /// Members whose handlers run in this process.
    pub(crate) embedded: Vec<MemberId>,
    /// Positions that are delivered again from the dead letter with this number.
    pub(crate) redriven: BTreeMap<u64, i64>,
    /// Events read from disk ahead of the frontier.
    pub(crate) ahead: Ahead,
    /// How many events are its own above the first and up to the second position, both ends of blocks
    /// or its base: counted once.
    pub(crate) counted: Option<(u64, u64, u64)>,
    letters_gone: Vec<i64>,
    kinds: Kinds,
}

/// What a commit writes for one subscription.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) changes: Changes,
    /// For each new dead letter, the older letter that it was redriven from, if any.
    pub(crate) died_again: Vec<Option<i64>>,
    /// Letters that are settled for good.
    pub(crate) letters_gone: Vec<i64>,
}

/// Which type numbers match the patterns in force since a position.
#[derive(Debug, Default)]
struct Kinds {
    since: u64,
    matches: Vec<Option<bool>>,
}

impl Subscription {
    /// A subscription whose rows are read, or that is new.
    pub(crate) fn new(number: Option<i64>, created: Timestamp, live: Live) -> Self {
        Self {
            number,
            name: live.spec.name.clone(),
            created,
            live: Mutex::new(live),
            reading: tokio::sync::Mutex::new(()),
            wake: watch::Sender::new(()),
        }
    }

    /// To wait for a change that may make something claimable.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.wake.subscribe()
    }

    /// Tells the members to look again.
    pub(crate) fn wake(&self) {
        self.wake.send_replace(());
    }
}

impl Live {
    /// What changes, at its start.
    pub(crate) fn new(spec: SubscriptionSpec, interest: Interest, cursor: Cursor) -> Self {
        Self {
            spec,
            interest,
            cursor,
            paused: false,
            gone: false,
            embedded: Vec::new(),
            redriven: BTreeMap::new(),
            ahead: Ahead::default(),
            counted: None,
            letters_gone: Vec::new(),
            kinds: Kinds::default(),
        }
    }

    /// Whether the event at `position`, whose type has the number `kind`, is the subscription's.
    pub(crate) fn matches(&mut self, position: u64, kind: u32, event_type: &EventType) -> bool {
        let since = self.interest.parts().last().map_or(0, |(since, _)| *since);
        if position < since {
            return self.interest.matches(position, event_type);
        }
        if self.kinds.since != since {
            self.kinds = Kinds {
                since,
                matches: Vec::new(),
            };
        }
        let index = kind as usize;
        if let Some(Some(known)) = self.kinds.matches.get(index) {
            return *known;
        }
        let matches = self.interest.matches(position, event_type);
        if self.kinds.matches.len() <= index {
            self.kinds.matches.resize(index + 1, None);
        }
        if let Some(slot) = self.kinds.matches.get_mut(index) {
            *slot = Some(matches);
        }
        matches
    }

    /// Plans a claim, see [`Cursor::plan`]; and whether deliveries were given up on the way.
    pub(crate) fn plan(
        &mut self,
        member: MemberId,
        kind: MemberKind,
        max: usize,
        now: Timestamp,
    ) -> (Plan, bool) {
        let before = self.cursor.tally();
        let plan = self.cursor.plan(member, kind, max, now);
        let after = self.cursor.tally();
        if after.dropped != before.dropped {
            // The letters that they were redriven from go with them.
            let (cursor, gone) = (&self.cursor, &mut self.letters_gone);
            self.redriven.retain(|position, letter| {
                let kept = *position > cursor.frontier() || cursor.standing(*position).is_some();
                if !kept {
                    gone.push(*letter);
                }
                kept
            });
        }
        (plan, after != before)
    }

    /// Settles one delivery; see [`Cursor::settle`].
    pub(crate) fn settle(
        &mut self,
        receipt: Receipt,
        settlement: Settlement,
        now: Timestamp,
    ) -> Settled {
        if self.gone {
            return Settled::Late;
        }
        let position = receipt.position.low();
        let ends = matches!(settlement, Settlement::Ack | Settlement::Drop);
        let settled = self.cursor.settle(position, receipt.epoch, settlement, now);
        if ends
            && settled == Settled::Done
            && let Some(letter) = self.redriven.remove(&position)
        {
            self.letters_gone.push(letter);
        }
        if self.spec.ephemeral {
            // There is nowhere to keep them.
            self.cursor.take_dead();
        }
        settled
    }

    /// The letter is not needed any more; its row goes with the next commit.
    pub(crate) fn forget_letter(&mut self, letter: i64) {
        self.letters_gone.push(letter);
    }

    /// Moves the cursor; see [`Cursor::seek`].
    pub(crate) fn seek(&mut self, base: u64) {
        self.cursor.seek(base);
        self.ahead = Ahead::default();
        let redriven = std::mem::take(&mut self.redriven);
        self.letters_gone.extend(redriven.into_values());
    }

    /// What to write, if anything changed.
    pub(crate) fn take(&mut self) -> Option<Taken> {
        if self.gone || !self.cursor.is_dirty() && self.letters_gone.is_empty() {
            return None;
        }
        let changes = self.cursor.take_changes();
        let died_again = changes
            .dead
            .iter()
            .map(|dead| self.redriven.remove(&dead.position))
            .collect();
        Some(Taken {
            changes,
            died_again,
            letters_gone: std::mem::take(&mut self.letters_gone),
        })
    }

    /// The commit that was to write it failed: the next one writes it.
    pub(crate) fn not_written(&mut self, taken: Taken) {
        for (dead, letter) in taken.changes.dead.iter().zip(&taken.died_again) {
            if let Some(letter) = letter {
                self.redriven.insert(dead.position, *letter);
            }
        }
        self.letters_gone.extend(taken.letters_gone);
        self.cursor.not_written(taken.changes);
    }
}

/// What the cursor needs to know of a subscription.
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

/// All subscriptions by name.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions(RwLock<BTreeMap<SubscriptionName, Arc<Subscription>>>);

impl Subscriptions {
    /// The subscription of this name.
    pub(crate) fn get(&self, name: &SubscriptionName) -> Result<Arc<Subscription>> {
        let found = self.0.read().get(name).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no subscription `{name}`")))
    }

    /// Every one, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Subscription>> {
        self.0.read().values().cloned().collect()
    }

    /// Every one that is stored, by name.
    pub(crate) fn durable(&self) -> Vec<Arc<Subscription>> {
        let mut all = self.all();
        all.retain(|subscription| subscription.number.is_some());
        all
    }

    /// The stored one with this number.
    pub(crate) fn numbered(&self, number: i64) -> Option<Arc<Subscription>> {
        let all = self.0.read();
        all.values().find(|s| s.number == Some(number)).cloned()
    }

    /// Adds one.
    pub(crate) fn add(&self, subscription: Arc<Subscription>) {
        self.0
            .write()
            .insert(subscription.name.clone(), subscription);
    }

    /// Removes one and ends its consumers.
    pub(crate) fn remove(&self, subscription: &Subscription) {
        self.0.write().remove(&subscription.name);
        subscription.live.lock().gone = true;
        subscription.wake();
    }

    /// Tells everybody's members to look again.
    pub(crate) fn wake_all(&self) {
        for subscription in self.all() {
            subscription.wake();
        }
    }
}
