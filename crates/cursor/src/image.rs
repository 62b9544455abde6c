//! A whole cursor as plain values, open leases included: what several processes hand to each other,
//! where the one that writes last is the one that counts. Backends of one process have
//! [`crate::changes`] instead.

use std::sync::Arc;

use fanfare_core::consumer::MemberKind;
use fanfare_core::timestamp::Timestamp;

use crate::changes::Place;
use crate::cursor::{Cursor, Holding, MemberId, Options};
use crate::exception::{Exception, Standing};
use crate::ledger::Tally;

/// Everything that a cursor is, but its options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Base, frontier, generation, closed blocks.
    pub place: Place,
    /// The last one handed out.
    pub epoch: u64,
    /// Every lease.
    pub leases: Vec<LeaseImage>,
    /// Every exception.
    pub exceptions: Vec<(u64, Exception)>,
    /// Every block of the ledger.
    pub blocks: Vec<(u64, Tally)>,
    /// Dead letters that a key is parked behind.
    pub parked: Vec<(u64, Arc<str>)>,
}

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseImage {
    /// Its epoch.
    pub epoch: u64,
    /// Whose.
    pub member: MemberId,
    /// What dies with it.
    pub kind: MemberKind,
    /// When it ends.
    pub until: Timestamp,
    /// Positions that end at another time.
    pub later: Vec<(u64, Timestamp)>,
    /// Every position it was granted, ascending.
    pub positions: Vec<u64>,
    /// A bit for each of them that is over.
    pub done: Vec<u64>,
}

impl Cursor {
    /// As it stands. Dead letters that nobody took yet are not in it.
    pub fn image(&self) -> Image {
        Image {
            place: self.place,
            epoch: self.epoch,
            leases: self.leases.images(),
            exceptions: self
                .exceptions
                .iter()
                .map(|(position, exception)| (position, exception.clone()))
                .collect(),
            blocks: self.ledger.blocks().collect(),
            parked: self
                .lanes
                .parked()
                .map(|(position, key)| (position, Arc::clone(key)))
                .collect(),
        }
    }

    /// The cursor of an image, clean.
    pub fn from_image(options: Options, image: Image) -> Self {
        let mut cursor = Self::new(options, image.place.base, image.epoch);
        cursor.place = image.place;
        for (block, tally) in image.blocks {
            cursor.ledger.restore(block, tally);
        }
        for (position, key) in image.parked {
            cursor.lanes.enter(&key, position);
            cursor.lanes.park(&key, position);
        }
        // The head of each lane is the one that is not blocked.
        let (behind, heads): (Vec<_>, Vec<_>) = image
            .exceptions
            .into_iter()
            .partition(|(_, e)| e.standing == Standing::Blocked);
        for (position, exception) in heads.into_iter().chain(behind) {
            if let Some(key) = &exception.key {
                cursor.lanes.enter(key, position);
            }
            cursor.exceptions.put(position, exception);
        }
        for lease in image.leases {
            cursor.resume(lease);
        }
        cursor.clean();
        cursor
    }

    /// Nothing is to be written any more: all of it is.
    pub fn clean(&mut self) {
        self.place_dirty = false;
        self.rewrite = false;
        self.leases.clean();
        self.exceptions.clean();
        self.ledger.clean();
    }

    fn resume(&mut self, image: LeaseImage) {
        let (member, kind) = (image.member, image.kind);
        let held: Vec<u64> = self.leases.resume(image);
        let alone = held
            .iter()
            .any(|position| self.exceptions.get(*position).is_some_and(|e| e.charged));
        let holding: &mut Holding = self.members.entry(member).or_default();
        holding.held += held.len();
        holding.isolated |= alone && kind == MemberKind::Embedded;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fanfare_core::delivery::{Settled, Settlement};

    use super::*;

    fn options(ordered: bool) -> Options {
        Options {
            ordered,
            park: true,
            lease: Duration::from_secs(30),
            max_attempts: 3,
            dead_letter: true,
            max_blocked: 100,
        }
    }

    #[test]
    fn a_cursor_goes_on_from_its_image_as_if_nothing_had_happened() {
        let now = Timestamp::EPOCH;
        for ordered in [false, true] {
            let mut cursor = Cursor::new(options(ordered), 0, 7);
            let plan = cursor.plan(MemberId(1), MemberKind::Embedded, 10, now);
            let keys = ["a", "a", "b", "c", "c"];
            let fresh = (1..).zip(keys).map(|(position, key)| (position, Some(key)));
            let granted = cursor.grant(&plan, fresh, 6, now);
            let retry = Settlement::Retry {
                after: Duration::from_secs(1),
                error: "no".into(),
            };
            cursor.settle(1, granted.epoch, retry, now);
            let dead = Settlement::DeadLetter {
                reason: "rejected".into(),
                error: String::new(),
            };
            cursor.settle(4, granted.epoch, dead, now);
            cursor.extend(&[(3, granted.epoch)], now + Duration::from_mins(9));
            cursor.take_dead();
            let image = cursor.image();
            let mut again = Cursor::from_image(options(ordered), image.clone());
            assert!(!again.is_dirty());
            assert_eq!(again.image(), image);
            let later = now + Duration::from_mins(1);
            for cursor in [&mut cursor, &mut again] {
                let plan = cursor.plan(MemberId(2), MemberKind::Embedded, 10, later);
                assert_eq!(plan.suspect.is_some(), !ordered);
                let repeated = cursor.settle(4, granted.epoch, Settlement::Ack, later);
                assert_eq!(repeated, Settled::Already);
            }
            assert_eq!(again.image(), cursor.image());
        }
    }

    #[test]
    fn who_holds_a_suspect_gets_nothing_else_after_the_image_either() {
        let now = Timestamp::EPOCH;
        let mut cursor = Cursor::new(options(false), 0, 0);
        let plan = cursor.plan(MemberId(1), MemberKind::Embedded, 1, now);
        cursor.grant(&plan, [(1, None)], 1, now);
        let later = now + Duration::from_mins(1);
        let plan = cursor.plan(MemberId(2), MemberKind::Embedded, 1, later);
        assert!(cursor.grant_suspect(&plan, later).is_some());
        let mut again = Cursor::from_image(options(false), cursor.image());
        let plan = again.plan(MemberId(2), MemberKind::Embedded, 1, later);
        assert_eq!((plan.suspect, plan.fresh), (None, 0));
    }
}
