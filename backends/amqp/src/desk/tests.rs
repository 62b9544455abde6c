//! Who gets what, when messages come again.

use fanfare_core::event::Event;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::SubscriptionName;

use super::*;
use crate::wire::Note;

const LEASE: Duration = Duration::from_secs(30);
const MEMBER: MemberId = MemberId(1);

fn desk() -> Desk {
    let name = SubscriptionName::parse("all").unwrap();
    let mut spec = SubscriptionSpec::new(name, PatternSet::parse(["**"]).unwrap());
    spec.lease = LEASE;
    spec.retry.max_attempts = 2;
    let mut desk = Desk::new(spec, 0);
    desk.new_line();
    desk
}

/// A message of the event at `position`, with what it says of earlier attempts.
fn message(position: u128, attempts: u32, tag: u64, alone: bool) -> Item {
    let event = Event::builder("orders.placed".parse().unwrap()).build();
    let note = Note {
        position: Position(position),
        attempts,
        first_failure: None,
    };
    Item::new(event.unwrap(), note, tag, alone)
}

fn look(desk: &mut Desk, max: usize, now: Timestamp) -> Vec<Delivery> {
    desk.look((MEMBER, MemberKind::Embedded), max, false, now).0
}

fn begin(desk: &mut Desk, receipt: Receipt, now: Timestamp) -> Result<Ending, Settled> {
    desk.begin(&[receipt], now).remove(0)
}

#[test]
fn what_the_broker_gives_back_rests_for_a_lease_uncharged() {
    let (mut desk, now) = (desk(), Timestamp::EPOCH);
    desk.arrive(message(1, 0, 1, false), true, now);
    assert!(look(&mut desk, 10, now).is_empty());
    assert_eq!(desk.next_rest(), Some(now + LEASE));
    assert!(desk.rested(now).is_empty());
    let rested = desk.rested(now + LEASE);
    assert_eq!(rested.first().map(|item| item.note.attempts), Some(0));
    assert_eq!(desk.next_rest(), None);
}

#[test]
fn what_ran_alone_when_its_process_died_is_charged_until_it_is_spent() {
    let (mut desk, now) = (desk(), Timestamp::EPOCH);
    desk.arrive(message(1, 1, 1, true), true, now);
    let rested = desk.rested(now + LEASE);
    let item = rested.first().unwrap();
    assert_eq!(item.note.attempts, 2);
    let spent = desk.spent(item).unwrap();
    assert_eq!(spent.attempts, 2);
    assert!(spent.error.is_some());
}

#[test]
fn what_runs_alone_comes_alone_and_with_its_attempts() {
    let (mut desk, now) = (desk(), Timestamp::EPOCH);
    desk.arrive(message(1, 0, 1, false), false, now);
    desk.arrive(message(2, 1, 1, true), false, now);
    let first = look(&mut desk, 10, now);
    let positions: Vec<_> = first.iter().map(|d| d.position).collect();
    assert_eq!(positions, [Position(2)]);
    assert_eq!(first.first().map(|d| d.attempt), Some(2));
    assert!(look(&mut desk, 10, now).is_empty());
}

#[test]
fn a_busy_member_gets_nothing_while_something_waits_to_run_alone() {
    let (mut desk, now) = (desk(), Timestamp::EPOCH);
    for n in 1..=2 {
        desk.arrive(message(n.into(), 0, n, false), false, now);
    }
    assert!(desk.wants_alone(MEMBER, MemberKind::Embedded, now));
    assert_eq!(look(&mut desk, 1, now).len(), 1);
    assert!(!desk.wants_alone(MEMBER, MemberKind::Embedded, now));
    assert!(desk.wants_alone(MEMBER, MemberKind::External, now));
    let who = (MEMBER, MemberKind::Embedded);
    assert!(desk.look(who, 1, true, now).0.is_empty());
    assert_eq!(desk.look(who, 1, false, now).0.len(), 1);
}

#[test]
fn what_is_held_and_comes_again_on_the_next_line_keeps_its_lease() {
    let (mut desk, now) = (desk(), Timestamp::EPOCH);
    desk.arrive(message(1, 0, 1, false), false, now);
    let receipt = look(&mut desk, 1, now).first().unwrap().receipt;
    desk.new_line();
    assert!(begin(&mut desk, receipt, now).is_ok_and(|e| !desk.is_current(&e.item)));
    let mut desk = self::desk();
    desk.arrive(message(1, 0, 1, false), false, now);
    let receipt = look(&mut desk, 1, now).first().unwrap().receipt;
    desk.new_line();
    desk.arrive(message(1, 0, 7, false), true, now);
    desk.forget_stale();
    let ending = begin(&mut desk, receipt, now).unwrap();
    assert_eq!(ending.item.tag, 7);
    assert!(desk.is_current(&ending.item));
}

#[test]
fn what_does_not_come_again_is_somebody_elses() {
    let (mut desk, now) = (desk(), Timestamp::EPOCH);
    desk.arrive(message(1, 0, 1, false), false, now);
    let receipt = look(&mut desk, 1, now).first().unwrap().receipt;
    desk.new_line();
    desk.forget_stale();
    assert!(begin(&mut desk, receipt, now).is_err());
    assert_eq!(desk.waiting() + desk.in_flight(), 0);
    // Its lease, which nobody ends, is in nobody's way later on.
    desk.arrive(message(2, 0, 1, false), false, now);
    assert_eq!(look(&mut desk, 10, now + LEASE * 2).len(), 1);
}

#[test]
fn what_is_being_settled_is_nobody_elses_however_long_the_broker_takes() {
    let (mut desk, now) = (desk(), Timestamp::EPOCH);
    desk.arrive(message(1, 0, 1, false), false, now);
    let receipt = look(&mut desk, 10, now)[0].receipt;
    let ending = begin(&mut desk, receipt, now).unwrap();
    let late = now + LEASE * 2;
    assert!(look(&mut desk, 10, late).is_empty());
    assert_eq!(
        begin(&mut desk, receipt, late).unwrap_err(),
        Settled::Already
    );
    assert_eq!(desk.extend(&[receipt], late, late), [Settled::Done]);
    assert!(look(&mut desk, 10, late + LEASE).is_empty());
    assert_eq!(desk.end(&ending, Settlement::Ack, late), Settled::Done);
    assert_eq!((desk.in_flight(), desk.waiting()), (0, 0));
    // What the broker did not hear is held again as long as any other.
    desk.arrive(message(2, 0, 2, false), false, late);
    let receipt = look(&mut desk, 10, late)[0].receipt;
    let ending = begin(&mut desk, receipt, late).unwrap();
    desk.take_back(&ending, late);
    assert!(look(&mut desk, 10, late).is_empty());
    let again = look(&mut desk, 10, late + LEASE);
    assert_eq!(again.first().map(|d| d.position), Some(Position(2)));
}

#[test]
fn many_are_settled_at_once_each_for_itself() {
    let (mut desk, now) = (desk(), Timestamp::EPOCH);
    for n in 1..=3 {
        desk.arrive(message(n.into(), 0, n, false), false, now);
    }
    let held: Vec<_> = look(&mut desk, 10, now).iter().map(|d| d.receipt).collect();
    let [first, second, third] = held[..] else {
        panic!("all three came");
    };
    let stranger = Receipt {
        position: Position(9),
        ..first
    };
    let late = Receipt {
        epoch: first.epoch + 1,
        ..third
    };
    let begun = desk.begin(&[second, stranger, first, late, second], now);
    let answers: Vec<_> = begun
        .iter()
        .map(|one| one.as_ref().map(|ending| ending.item.tag))
        .collect();
    let refused = |as_what: &'static Settled| Err(as_what);
    assert_eq!(
        answers,
        [
            Ok(2),
            refused(&Settled::Unknown),
            Ok(1),
            refused(&Settled::Late),
            refused(&Settled::Already),
        ]
    );
    for ending in begun.iter().flatten() {
        assert_eq!(desk.end(ending, Settlement::Ack, now), Settled::Done);
    }
    assert_eq!((desk.in_flight(), desk.waiting()), (1, 0));
}

fn ordered() -> Desk {
    let mut desk = desk();
    desk.spec.ordered = true;
    let spec = desk.spec.clone();
    desk.set_spec(spec);
    desk
}

#[test]
fn an_owner_to_whom_only_what_it_has_comes_again_goes_on() {
    let (mut desk, now) = (ordered(), Timestamp::EPOCH);
    for n in 1..=2 {
        desk.arrive(message(n.into(), 0, n, false), false, now);
    }
    desk.own(None, now);
    let receipt = look(&mut desk, 1, now)[0].receipt;
    desk.new_line();
    for n in 1..=2 {
        desk.arrive(message(n.into(), 0, n + 5, false), true, now);
    }
    assert!(desk.is_new_owner());
    assert!(look(&mut desk, 10, now).is_empty());
    desk.own(None, now);
    let ending = begin(&mut desk, receipt, now).unwrap();
    assert_eq!(ending.item.tag, 6);
    assert_eq!(look(&mut desk, 10, now)[0].position, Position(2));
}

#[test]
fn what_somebody_had_meanwhile_is_ours_no_more() {
    let (mut desk, now) = (ordered(), Timestamp::EPOCH);
    desk.arrive(message(1, 0, 1, false), false, now);
    desk.own(None, now);
    let receipt = look(&mut desk, 1, now)[0].receipt;
    desk.new_line();
    desk.arrive(message(1, 0, 2, false), true, now);
    // Who had it broke off without a word, and may run it still.
    desk.own(Some((HashMap::new(), true)), now);
    assert!(begin(&mut desk, receipt, now).is_err());
    assert!(look(&mut desk, 10, now).is_empty());
    // Then it runs alone, once the book says so.
    let over = now + LEASE;
    assert!(look(&mut desk, 10, over).is_empty());
    let next = desk.next_to_note((MEMBER, MemberKind::Embedded), over);
    assert_eq!(next.map(|(position, _)| position), Some(Position(1)));
}

#[test]
fn a_copy_of_what_is_held_or_done_with_is_known_as_one() {
    let (mut desk, now) = (desk(), Timestamp::EPOCH);
    for n in 1..=3_u8 {
        desk.arrive(message(n.into(), 0, n.into(), false), false, now);
    }
    let came = look(&mut desk, 10, now);
    let (after, error) = (Duration::from_mins(1), String::new());
    let ends = [
        Settlement::Ack,
        Settlement::Retry { after, error },
        Settlement::Drop,
    ];
    let copy = |desk: &mut Desk, position: u128| {
        desk.arrive(message(position, 0, 9, true), true, now) == Arrived::Copy
    };
    for (came, with) in came.iter().zip(ends) {
        assert!(copy(&mut desk, came.position.0), "held");
        let ending = begin(&mut desk, came.receipt, now).unwrap();
        desk.finish(&ending, &with);
        // A retry of a minute waits at the broker.
        desk.end(&ending, Settlement::Drop, now);
    }
    assert!(copy(&mut desk, 1) && copy(&mut desk, 3));
    assert!(!copy(&mut desk, 2), "it comes again when it is due");
    assert!(!copy(&mut desk, 4));
    desk.new_line();
    assert!(copy(&mut desk, 1));
}

#[test]
fn a_retry_that_comes_before_its_settlement_is_answered_is_no_copy() {
    let (mut desk, now) = (desk(), Timestamp::EPOCH);
    desk.arrive(message(1, 0, 1, false), false, now);
    let came = look(&mut desk, 1, now).remove(0);
    let ending = begin(&mut desk, came.receipt, now).unwrap();
    // It waited at the broker, which answers us only now.
    let retry = desk.arrive(message(1, 1, 2, false), false, now);
    assert_eq!(retry, Arrived::Taken);
    desk.end(&ending, Settlement::Drop, now);
    let again = look(&mut desk, 1, now).remove(0);
    assert_eq!(again.attempt, 2);
    let ending = begin(&mut desk, again.receipt, now).unwrap();
    assert_eq!(ending.item.tag, 2);
}

#[test]
fn what_nobody_had_begun_when_the_line_broke_holds_up_nothing() {
    let (mut desk, now) = (desk(), Timestamp::EPOCH);
    desk.arrive(message(1, 0, 1, false), false, now);
    desk.new_line();
    desk.arrive(message(2, 0, 1, false), false, now);
    let came = look(&mut desk, 10, now);
    assert_eq!(came.first().map(|d| d.position), Some(Position(2)));
    // To us it comes again as what it was; to others, or later, as what somebody may have died of.
    desk.arrive(message(1, 0, 2, false), true, now);
    let came = look(&mut desk, 10, now);
    assert_eq!(came.first().map(|d| d.position), Some(Position(1)));
    desk.arrive(message(3, 0, 3, false), false, now);
    desk.new_line();
    desk.forget_stale();
    desk.arrive(message(3, 0, 1, false), true, now);
    assert!(look(&mut desk, 10, now).is_empty());
    assert_eq!(desk.next_rest(), Some(now + LEASE));
}

#[test]
fn what_is_to_run_alone_and_is_elsewhere_holds_up_nothing() {
    let (mut desk, now) = (desk(), Timestamp::EPOCH);
    desk.arrive(message(1, 0, 1, false), false, now);
    assert_eq!(look(&mut desk, 10, now).len(), 1);
    desk.new_line();
    let later = now + LEASE;
    // Its lease ended here, and nothing else is here that would wait for it.
    assert!(look(&mut desk, 10, later).is_empty());
    desk.arrive(message(2, 0, 1, false), false, later);
    let came = look(&mut desk, 10, later);
    assert_eq!(came.first().map(|d| d.position), Some(Position(2)));
    desk.arrive(message(1, 0, 2, false), true, later);
    assert_eq!(desk.next_rest(), Some(later + LEASE));
}
