//! The machine on its own: small stories, and a random walk against the conservation law.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fanfare_core::consumer::MemberKind::{self, Embedded, External};
use fanfare_core::delivery::{Settled, Settlement};
use fanfare_core::timestamp::Timestamp;

use crate::changes::{Changes, LeaseRow, NewDead, Rows};
use crate::{Cursor, Exception, Granted, MemberId, Options, Tally};

const LEASE: Duration = Duration::from_secs(30);

fn options(ordered: bool) -> Options {
    Options {
        ordered,
        park: false,
        lease: LEASE,
        max_attempts: 3,
        dead_letter: true,
        max_blocked: 100,
    }
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::EPOCH + Duration::from_secs(seconds)
}

/// Claims with every position up to `head` matching; `keys` gives the key of a position.
#[expect(
    clippy::too_many_arguments,
    reason = "each story sets every one of them"
)]
fn claim(
    cursor: &mut Cursor,
    member: u64,
    kind: MemberKind,
    max: usize,
    now: Timestamp,
    head: u64,
    keys: &dyn Fn(u64) -> Option<&'static str>,
) -> Granted {
    let plan = cursor.plan(MemberId(member), kind, max, now);
    if plan.suspect.is_some() {
        return cursor.grant_suspect(&plan, now).unwrap_or_default();
    }
    let last = head.min(plan.after + plan.fresh as u64);
    let fresh: Vec<_> = (plan.after + 1..=last).map(|p| (p, keys(p))).collect();
    cursor.grant(&plan, fresh, last, now)
}

fn simple(cursor: &mut Cursor, max: usize, now: Timestamp, head: u64) -> Granted {
    claim(cursor, 1, Embedded, max, now, head, &|_| None)
}

fn failed() -> Settlement {
    Settlement::Retry {
        after: Duration::from_secs(10),
        error: "no".into(),
    }
}

#[test]
fn a_settled_range_leaves_nothing_to_write_but_the_place() {
    let mut cursor = Cursor::new(options(false), 0, 0);
    cursor.take_changes();
    let granted = simple(&mut cursor, 100, at(0), 100);
    assert_eq!(granted.deliveries.len(), 100);
    for (position, _) in &granted.deliveries {
        assert_eq!(
            cursor.settle(*position, granted.epoch, Settlement::Ack, at(0)),
            Settled::Done
        );
    }
    let changes = cursor.take_changes();
    assert_eq!(changes.place.frontier, 100);
    assert!(changes.leases.is_empty() && changes.exceptions.is_empty());
    assert_eq!(
        changes.blocks,
        [(
            0,
            Some(Tally {
                acknowledged: 100,
                ..Tally::default()
            })
        )]
    );
}

#[test]
fn a_retry_comes_back_when_due_with_the_next_attempt_and_in_the_end_dies() {
    let mut cursor = Cursor::new(options(false), 0, 0);
    let mut now = 0;
    for attempt in 1..=3 {
        let granted = simple(&mut cursor, 10, at(now), 1);
        assert_eq!(granted.deliveries, [(1, attempt)]);
        cursor.settle(1, granted.epoch, failed(), at(now));
        assert!(
            simple(&mut cursor, 10, at(now + 9), 1)
                .deliveries
                .is_empty()
        );
        now += 10;
    }
    let granted = simple(&mut cursor, 10, at(now), 1);
    let dead = Settlement::DeadLetter {
        reason: "max_attempts".into(),
        error: "no".into(),
    };
    cursor.settle(1, granted.epoch, dead, at(now));
    let letter = cursor.take_dead().pop().unwrap();
    assert_eq!((letter.attempts, letter.first_failure), (4, at(0)));
    assert_eq!(cursor.tally().dead, 1);
}

#[test]
fn a_late_settlement_is_refused_and_the_new_owner_counts() {
    let mut cursor = Cursor::new(options(false), 0, 0);
    let first = claim(&mut cursor, 1, External, 1, at(0), 1, &|_| None);
    let second = claim(&mut cursor, 2, External, 1, at(31), 1, &|_| None);
    assert_eq!(second.deliveries, [(1, 1)]);
    assert_eq!(
        cursor.settle(1, first.epoch, Settlement::Ack, at(31)),
        Settled::Late
    );
    assert_eq!(
        cursor.settle(1, second.epoch, Settlement::Ack, at(31)),
        Settled::Done
    );
    assert_eq!(
        cursor.settle(1, second.epoch, Settlement::Ack, at(31)),
        Settled::Already
    );
    assert_eq!(
        cursor.settle(9, second.epoch, Settlement::Ack, at(31)),
        Settled::Unknown
    );
}

#[test]
fn extending_one_delivery_of_a_range_leaves_its_neighbours_to_time() {
    let mut cursor = Cursor::new(options(false), 0, 0);
    let granted = claim(&mut cursor, 1, External, 3, at(0), 3, &|_| None);
    assert_eq!(
        cursor.extend(&[(2, granted.epoch)], at(60)),
        [Settled::Done]
    );
    cursor.expire(at(31));
    assert_eq!(cursor.in_flight(), 1);
    assert_eq!(
        cursor.extend(&[(1, granted.epoch), (2, granted.epoch)], at(90)),
        [Settled::Late, Settled::Done]
    );
    cursor.expire(at(89));
    assert_eq!(cursor.in_flight(), 1);
}

#[test]
fn a_poison_event_is_isolated_and_only_it_is_charged() {
    let mut cursor = Cursor::new(options(false), 0, 0);
    // 10 events are prefetched, number 4 kills the process each time it runs.
    let mut deaths = 0;
    let mut handled = BTreeSet::new();
    let mut now = 0;
    let mut member = 0;
    while cursor.tally().dead == 0 {
        member += 1;
        loop {
            let granted = claim(&mut cursor, member, Embedded, 10, at(now), 10, &|_| None);
            if granted.deliveries.is_empty() {
                assert_eq!(cursor.tally().dead, 1);
                break;
            }
            // The handlers run at once: the poison takes the others with it.
            if granted
                .deliveries
                .iter()
                .any(|(position, _)| *position == 4)
            {
                deaths += 1;
                break;
            }
            for (position, attempt) in granted.deliveries {
                assert_eq!(attempt, 1, "neighbour {position} was charged");
                assert_eq!(
                    cursor.settle(position, granted.epoch, Settlement::Ack, at(now)),
                    Settled::Done
                );
                handled.insert(position);
            }
        }
        now += 31;
    }
    assert_eq!(deaths, 4, "max_attempts + 1");
    assert_eq!(handled.len(), 9);
    assert_eq!(cursor.take_dead().pop().unwrap().attempts, 3);
}

#[test]
fn keys_are_handled_one_at_a_time_in_order() {
    let mut cursor = Cursor::new(options(true), 0, 0);
    let key = |p: u64| Some(if p.is_multiple_of(2) { "even" } else { "odd" });
    let first = claim(&mut cursor, 1, Embedded, 10, at(0), 6, &key);
    assert_eq!(first.deliveries, [(1, 1), (2, 1)]);
    cursor.settle(1, first.epoch, failed(), at(0));
    cursor.settle(2, first.epoch, Settlement::Ack, at(0));
    let second = claim(&mut cursor, 2, Embedded, 10, at(1), 6, &key);
    assert_eq!(second.deliveries, [(4, 1)], "odd waits for the retry of 1");
    let third = claim(&mut cursor, 1, Embedded, 10, at(10), 6, &key);
    assert_eq!(third.deliveries, [(1, 2)]);
    cursor.settle(1, third.epoch, Settlement::Drop, at(10));
    assert_eq!(
        claim(&mut cursor, 1, Embedded, 10, at(10), 6, &key).deliveries,
        [(3, 1)]
    );
}

#[test]
fn a_parked_key_waits_for_its_dead_letter() {
    let mut cursor = Cursor::new(
        Options {
            park: true,
            ..options(true)
        },
        0,
        0,
    );
    let key = |_: u64| Some("k");
    let first = claim(&mut cursor, 1, Embedded, 10, at(0), 3, &key);
    let dead = Settlement::DeadLetter {
        reason: "rejected".into(),
        error: String::new(),
    };
    cursor.settle(1, first.epoch, dead, at(0));
    assert!(
        claim(&mut cursor, 1, Embedded, 10, at(0), 3, &key)
            .deliveries
            .is_empty()
    );
    cursor.redrive(1, 0, Some("k"));
    let again = claim(&mut cursor, 1, Embedded, 10, at(0), 3, &key);
    assert_eq!(again.deliveries, [(1, 1)]);
    cursor.settle(
        1,
        again.epoch,
        Settlement::DeadLetter {
            reason: "rejected".into(),
            error: String::new(),
        },
        at(0),
    );
    cursor.discard(1, 0);
    assert_eq!(
        claim(&mut cursor, 1, Embedded, 10, at(0), 3, &key).deliveries,
        [(2, 1)]
    );
}

#[test]
fn blocked_events_are_bounded() {
    let mut cursor = Cursor::new(options(true), 0, 0);
    for _ in 0..5 {
        claim(&mut cursor, 1, Embedded, 100, at(0), 100_000, &|_| {
            Some("hot")
        });
    }
    assert!(cursor.frontier() <= 201, "{}", cursor.frontier());
}

#[test]
fn what_a_failed_commit_took_is_written_by_the_next() {
    let mut cursor = Cursor::new(options(false), 0, 0);
    let granted = simple(&mut cursor, 3, at(0), 3);
    cursor.settle(1, granted.epoch, failed(), at(0));
    cursor.settle(
        2,
        granted.epoch,
        Settlement::DeadLetter {
            reason: "r".into(),
            error: "e".into(),
        },
        at(0),
    );
    let lost = cursor.take_changes();
    cursor.not_written(lost.clone());
    let again = cursor.take_changes();
    assert!(again.rewrite);
    assert_eq!(
        (again.dead.len(), again.exceptions.len(), again.leases.len()),
        (1, 1, 1)
    );
    assert!(!cursor.is_dirty());
}

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
