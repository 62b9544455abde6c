//! A random walk against the conservation law, with a store that can fail a commit and restart.

use std::collections::{BTreeMap, BTreeSet};

use fanfare_core::consumer::MemberKind::{Embedded, External};
use fanfare_core::delivery::{Settled, Settlement};

use super::{at, claim, failed, options};
use crate::changes::{Changes, LeaseRow, NewDead, Rows};
use crate::{Cursor, Exception, Options, Tally};

/// The rows of a cursor, kept the way a backend keeps them.
#[derive(Default)]
struct Store {
    place: crate::changes::Place,
    leases: BTreeMap<u64, LeaseRow>,
    exceptions: BTreeMap<u64, Exception>,
    blocks: BTreeMap<u64, Tally>,
    dead: BTreeMap<u64, NewDead>,
}

impl Store {
    fn apply(&mut self, changes: Changes) {
        if changes.rewrite {
            self.leases.clear();
            self.exceptions.clear();
            self.blocks.clear();
        }
        self.place = changes.place;
        put_all(&mut self.leases, changes.leases);
        put_all(&mut self.exceptions, changes.exceptions);
        put_all(&mut self.blocks, changes.blocks);
        self.dead
            .extend(changes.dead.into_iter().map(|dead| (dead.position, dead)));
    }

    fn rows(&self) -> Rows {
        Rows {
            place: self.place,
            leases: self.leases.values().cloned().collect(),
            exceptions: self
                .exceptions
                .iter()
                .map(|(p, e)| (*p, e.clone()))
                .collect(),
            blocks: self.blocks.iter().map(|(b, t)| (*b, *t)).collect(),
            parked: self
                .dead
                .values()
                .filter_map(|d| d.parks.clone().map(|key| (d.position, key)))
                .collect(),
        }
    }
}

fn put_all<V>(map: &mut BTreeMap<u64, V>, changes: Vec<(u64, Option<V>)>) {
    for (key, value) in changes {
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }
}

/// xorshift: the same walk for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Publishing, claiming, settling in every way, dying, redriving, committing, failing commits and
/// restarting at random: every event stays accounted for, and at most one delivery of a key is out.
#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one arm for each thing that can happen"
)]
fn a_random_walk_loses_and_invents_nothing() {
    for seed in 1..=500 {
        let mut dice = Dice(seed * 0x9E37_79B9);
        let (ordered, park) = (dice.roll(2) == 0, dice.roll(2) == 0);
        let options = Options {
            park: ordered && park,
            max_blocked: 10,
            ..options(ordered)
        };
        let keys = |p: u64| {
            if p.is_multiple_of(5) {
                None
            } else {
                Some(["a", "b", "c"][usize::try_from(p % 3).unwrap()])
            }
        };
        let mut cursor = Cursor::new(options.clone(), 0, 0);
        let mut store = Store::default();
        store.apply(cursor.take_changes());
        let mut out: Vec<(u64, u64)> = Vec::new();
        let (mut head, mut now, mut incarnation) = (0, 0, 0);
        for _ in 0..300 {
            now += dice.roll(12);
            match dice.roll(12) {
                0..=2 => head += dice.roll(6),
                3..=5 => {
                    let kind = if dice.roll(2) == 0 {
                        Embedded
                    } else {
                        External
                    };
                    let max = usize::try_from(dice.roll(6)).unwrap();
                    let granted = claim(&mut cursor, dice.roll(3), kind, max, at(now), head, &keys);
                    out.extend(
                        granted
                            .deliveries
                            .iter()
                            .map(|(position, _)| (*position, granted.epoch)),
                    );
                }
                6..=8 if !out.is_empty() => {
                    let (position, epoch) =
                        out.swap_remove(usize::try_from(dice.roll(out.len() as u64)).unwrap());
                    let settlement = match dice.roll(6) {
                        0 => failed(),
                        1 => Settlement::DeadLetter {
                            reason: "r".into(),
                            error: "e".into(),
                        },
                        2 => Settlement::Drop,
                        3 => Settlement::Release,
                        _ => Settlement::Ack,
                    };
                    cursor.settle(position, epoch, settlement, at(now));
                }
                9 => {
                    let changes = cursor.take_changes();
                    if dice.roll(3) == 0 {
                        cursor.not_written(changes);
                    } else {
                        store.apply(changes);
                    }
                }
                10 => {
                    store.apply(cursor.take_changes());
                    mend_one(&mut cursor, &mut store, dice.roll(2) == 0, &keys);
                }
                11 => {
                    // The process dies; what was not committed is gone.
                    incarnation += 1;
                    cursor = Cursor::restore(options.clone(), store.rows(), incarnation << 32);
                }
                _ => {}
            }
            check(&cursor, ordered, &keys, seed);
        }
        drain(&mut cursor, head, now, &keys, seed);
        if !options.park {
            assert_eq!(
                (cursor.frontier(), cursor.waiting()),
                (head, 0),
                "seed {seed}: something is stuck"
            );
        }
        check(&cursor, ordered, &keys, seed);
    }
}

/// Redrives or discards the first dead letter, in one commit with its removal.
fn mend_one(
    cursor: &mut Cursor,
    store: &mut Store,
    redrive: bool,
    keys: &dyn Fn(u64) -> Option<&'static str>,
) {
    let Some((position, dead)) = store.dead.pop_first() else {
        return;
    };
    if redrive {
        cursor.redrive(position, dead.generation, keys(position));
    } else {
        cursor.discard(position, dead.generation);
    }
    store.apply(cursor.take_changes());
}

fn check(cursor: &Cursor, ordered: bool, keys: &dyn Fn(u64) -> Option<&'static str>, seed: u64) {
    let total = cursor.tally();
    let accounted =
        total.acknowledged + total.dropped + total.dead + cursor.in_flight() + cursor.waiting();
    assert_eq!(accounted, cursor.frontier(), "seed {seed}");
    let unsettled: Vec<u64> = cursor.unsettled().collect();
    assert_eq!(
        unsettled.len() as u64,
        cursor.in_flight() + cursor.waiting(),
        "seed {seed}"
    );
    assert!(
        unsettled.iter().all(|p| *p >= cursor.lowest_unsettled()),
        "seed {seed}"
    );
    if ordered {
        let mut leased = BTreeSet::new();
        for position in unsettled {
            let held = matches!(
                cursor.standing(position).unwrap().standing,
                crate::Standing::Leased(_)
            );
            if let Some(key) = keys(position).filter(|_| held) {
                assert!(leased.insert(key), "seed {seed}: two of key {key} are out");
            }
        }
    }
}

fn drain(
    cursor: &mut Cursor,
    head: u64,
    mut now: u64,
    keys: &dyn Fn(u64) -> Option<&'static str>,
    seed: u64,
) {
    for round in 0..2_000 {
        now += 31;
        let granted = claim(cursor, 1_000 + round, External, 50, at(now), head, keys);
        for (position, _) in &granted.deliveries {
            assert_eq!(
                cursor.settle(*position, granted.epoch, Settlement::Ack, at(now)),
                Settled::Done,
                "seed {seed}"
            );
        }
    }
    assert!(
        cursor.frontier() == head || cursor.waiting() > 0,
        "seed {seed}"
    );
}
