//! What a commit writes for one subscription, and how a cursor comes back from those rows.

use std::sync::Arc;

use fanfare_core::consumer::MemberKind;
use fanfare_core::timestamp::Timestamp;

use crate::cursor::{Cursor, MemberId, Options};
use crate::exception::{Exception, Standing};
use crate::lease::Lease;
use crate::ledger::Tally;

/// The single-valued part of a cursor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Events at or below are not the subscription's.
    pub base: u64,
    /// Everything above is unclaimed.
    pub frontier: u64,
    /// How often it was moved by a seek.
    pub generation: u64,
    /// The sum of blocks that were trimmed.
    pub closed: Tally,
}

/// A delivery that was given up since the last commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDead {
    /// Which event.
    pub position: u64,
    /// The generation of the cursor.
    pub generation: u64,
    /// Why.
    pub reason: String,
    /// What failed last.
    pub error: String,
    /// Attempts made.
    pub attempts: u32,
    /// When it first failed.
    pub first_failure: Timestamp,
    /// When it last failed.
    pub last_failure: Timestamp,
    /// The key that waits behind it.
    pub parks: Option<Arc<str>>,
}

/// A lease as a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// Its epoch.
    pub epoch: u64,
    /// Whose.
    pub kind: MemberKind,
    /// Until when.
    pub until: Timestamp,
    /// The positions still held, ascending.
    pub positions: Vec<u64>,
}

/// Everything that differs from the rows last written. Apply all of it in one transaction, in the
/// order of the fields; if that fails, give it back to [`Cursor::not_written`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Changes {
    /// First remove every lease, exception and block row of this subscription.
    pub rewrite: bool,
    /// The new place.
    pub place: Place,
    /// Leases to put, or to remove by epoch.
    pub leases: Vec<(u64, Option<LeaseRow>)>,
    /// Exceptions to put, or to remove by position.
    pub exceptions: Vec<(u64, Option<Exception>)>,
    /// Blocks of the ledger to put, or to remove.
    pub blocks: Vec<(u64, Option<Tally>)>,
    /// Dead letters to insert.
    pub dead: Vec<NewDead>,
}

/// The rows of a cursor, as read back.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// The place.
    pub place: Place,
    /// Every lease.
    pub leases: Vec<LeaseRow>,
    /// Every exception.
    pub exceptions: Vec<(u64, Exception)>,
    /// Every block.
    pub blocks: Vec<(u64, Tally)>,
    /// Dead letters that a key is parked behind.
    pub parked: Vec<(u64, Arc<str>)>,
}

impl Cursor {
    /// Whether a commit has something to write.
    pub fn is_dirty(&self) -> bool {
        self.place_dirty
            || self.rewrite
            || !self.dead.is_empty()
            || self.leases.is_dirty()
            || self.exceptions.is_dirty()
            || self.ledger.is_dirty()
    }

    /// What to write; afterwards the cursor is clean.
    pub fn take_changes(&mut self) -> Changes {
        let epochs = self.leases.take_dirty();
        let leases = epochs
            .into_iter()
            .map(|epoch| (epoch, self.lease_row(epoch)))
            .collect();
        self.place_dirty = false;
        Changes {
            rewrite: std::mem::take(&mut self.rewrite),
            place: self.place,
            leases,
            exceptions: self.exceptions.take_dirty(),
            blocks: self.ledger.take_dirty(),
            dead: std::mem::take(&mut self.dead),
        }
    }

    /// The commit failed: what was taken is to be written by the next one, all rows anew.
    pub fn not_written(&mut self, changes: Changes) {
        let mut dead = changes.dead;
        dead.append(&mut self.dead);
        self.dead = dead;
        self.rewrite = true;
        self.place_dirty = true;
        self.leases.forget_stored();
        self.exceptions.forget_stored();
        self.ledger.forget_stored();
    }

    /// Takes the dead letters that are not written yet, for backends without commits.
    pub fn take_dead(&mut self) -> Vec<NewDead> {
        std::mem::take(&mut self.dead)
    }

    /// A cursor from its rows. `epoch` must be above every epoch ever handed out. What was leased
    /// to an embedded member died with the old process: it comes back as suspects.
    pub fn restore(options: Options, rows: Rows, epoch: u64) -> Self {
        let mut cursor = Self::new(options, rows.place.base, epoch);
        cursor.place = rows.place;
        cursor.place_dirty = false;
        for (block, tally) in rows.blocks {
            cursor.ledger.restore(block, tally);
        }
        for (position, key) in rows.parked {
            cursor.lanes.enter(&key, position);
            cursor.lanes.park(&key, position);
        }
        // The head of each lane is the one that is not blocked, whatever its position: a redriven
        // event may stand behind a later one.
        let (behind, heads): (Vec<_>, Vec<_>) = rows
            .exceptions
            .into_iter()
            .partition(|(_, e)| e.standing == Standing::Blocked);
        for (position, mut exception) in heads.into_iter().chain(behind) {
            let heads = exception
                .key
                .as_ref()
                .is_none_or(|key| cursor.lanes.enter(key, position));
            exception.standing = match exception.standing {
                _ if !heads => Standing::Blocked,
                Standing::Blocked | Standing::Leased(_) => Standing::Ready,
                standing => standing,
            };
            cursor.exceptions.put(position, exception);
        }
        cursor.exceptions.take_dirty();
        for row in rows.leases {
            cursor.restore_lease(row);
        }
        cursor
    }

    /// Marks unsettled positions from `first` to `last` as suspects: they were running when the
    /// process died. `matching` yields the subscription's positions in that range with their keys.
    pub fn suspect(
        &mut self,
        first: u64,
        last: u64,
        matching: impl IntoIterator<Item = (u64, Option<Arc<str>>)>,
    ) {
        let below: Vec<u64> = self
            .exceptions
            .iter()
            .filter(|(p, e)| (first..=last).contains(p) && e.standing == Standing::Ready)
            .map(|(p, _)| p)
            .collect();
        for position in below {
            self.exceptions.stand(position, Standing::Suspect);
        }
        // Claimed, but lost with the process before a commit passed: still above the frontier.
        for (position, key) in matching {
            if position > self.place.frontier && position <= last {
                self.place.frontier = position;
                self.place_dirty = true;
                self.enter(position, key, Standing::Suspect);
            }
        }
    }

    fn restore_lease(&mut self, row: LeaseRow) {
        match row.kind {
            MemberKind::Embedded => {
                for position in &row.positions {
                    self.give_back(*position, Standing::Suspect);
                }
                self.leases.remove_stored(row.epoch);
            }
            MemberKind::External => {
                for position in &row.positions {
                    if self.exceptions.get(*position).is_some() {
                        self.exceptions
                            .stand(*position, Standing::Leased(row.epoch));
                    }
                }
                self.leases.adopt(
                    row.epoch,
                    Lease::new(MemberId(0), row.kind, row.until, row.positions),
                );
            }
        }
    }

    fn lease_row(&self, epoch: u64) -> Option<LeaseRow> {
        let lease = self.leases.get(epoch)?;
        Some(LeaseRow {
            epoch,
            kind: lease.kind,
            until: lease.until(),
            positions: lease.remaining().collect(),
        })
    }
}
