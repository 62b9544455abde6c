//! The machine on its own, in small stories. The random walk is in `tests/walk.rs`.

mod walk;

use std::collections::BTreeSet;
use std::time::Duration;

use fanfare_core::consumer::MemberKind::{self, Embedded, External};
use fanfare_core::delivery::{Settled, Settlement};
use fanfare_core::timestamp::Timestamp;

use crate::{Cursor, Granted, MemberId, Options, Tally};

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
fn letters_from_before_and_after_a_seek_share_one_delivery() {
    let mut cursor = Cursor::new(options(false), 0, 0);
    let rejected = || Settlement::DeadLetter {
        reason: "rejected".into(),
        error: String::new(),
    };
    let first = simple(&mut cursor, 1, at(0), 1);
    cursor.settle(1, first.epoch, rejected(), at(0));
    cursor.seek(0);
    let second = simple(&mut cursor, 1, at(0), 1);
    cursor.settle(1, second.epoch, rejected(), at(0));
    cursor.redrive(1, 0, None);
    cursor.redrive(1, 1, None);
    let tally = cursor.tally();
    assert_eq!((tally.dead, tally.extra, cursor.waiting()), (0, 0, 1));
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
