//! The judge must be able to say no: a good record passes, and each way of breaking a promise,
//! written into the record or into what the server holds, is found.

use super::*;

const LEASE: u64 = 500_000;
const ID: &str = "event-1";

fn intent() -> Entry {
    Entry::Intent { id: ID.into() }
}

fn acked(duplicate: bool) -> Entry {
    Entry::Acked {
        id: ID.into(),
        position: Some("7".into()),
        duplicate,
        at: 9_000,
    }
}

fn delivered(token: &str, attempt: u32, since: u64, at: u64) -> Entry {
    Entry::Delivered {
        sub: "s".into(),
        id: ID.into(),
        token: token.into(),
        attempt,
        since,
        asked: at - 1_000,
        at,
    }
}

fn settling(token: &str, outcome: Outcome, at: u64) -> Entry {
    Entry::Settling {
        sub: "s".into(),
        token: token.into(),
        outcome,
        at,
    }
}

fn settled(token: &str, said: Said) -> Entry {
    Entry::Settled {
        sub: "s".into(),
        token: token.into(),
        said,
        at: 12_000,
    }
}

fn adrift(token: &str) -> Entry {
    Entry::Adrift {
        sub: "s".into(),
        token: token.into(),
    }
}

/// Published, delivered, acknowledged: lines 1 to 5.
fn whole_life() -> Vec<Entry> {
    vec![
        intent(),
        acked(false),
        delivered("t1", 1, 2, 10_000),
        settling("t1", Outcome::Ack, 11_000),
        settled("t1", Said::Done),
    ]
}

fn held() -> Held {
    let balance = Balance {
        published: 1,
        acknowledged: 1,
        ..Balance::default()
    };
    Held {
        history: vec![(ID.into(), "7".into())],
        audit: [("s".into(), balance)].into(),
        audit_ok: true,
        losses: 0,
        forgets: false,
        copies: 0,
    }
}

#[track_caller]
fn holds(record: &[Entry]) {
    let verdict = judge(record, &held(), LEASE);
    assert_eq!(verdict.broken, Vec::<String>::new());
}

#[track_caller]
fn breaks(record: &[Entry], held: &Held, what: &str) {
    let broken = judge(record, held, LEASE).broken;
    assert!(broken.iter().any(|said| said.contains(what)), "{broken:?}");
}

#[test]
fn a_whole_life_holds() {
    holds(&whole_life());
}

#[test]
fn an_acknowledged_event_that_is_not_there_is_lost() {
    let mut without = held();
    without.history.clear();
    breaks(&whole_life(), &without, "LOST");
}

#[test]
fn an_event_that_was_never_published_is_invented() {
    let mut with = held();
    with.history.push(("stranger".into(), "8".into()));
    breaks(&whole_life(), &with, "never published");
    let unknown = vec![delivered("t1", 1, 0, 10_000)];
    breaks(&unknown, &held(), "delivered but never published");
}

#[test]
fn an_event_is_stored_once() {
    let mut twice = held();
    twice.history.push((ID.into(), "8".into()));
    breaks(&whole_life(), &twice, "twice in the history");
    let mut record = whole_life();
    record.insert(2, acked(false));
    breaks(&record, &held(), "stored again");
    breaks(&[intent(), acked(true)], &held(), "duplicate of nothing");
}

#[test]
fn doubt_allows_a_duplicate_answer() {
    let mut record = whole_life();
    record.insert(1, Entry::InDoubt { id: ID.into() });
    record[2] = acked(true);
    holds(&record);
}

#[test]
fn what_is_settled_does_not_come_again() {
    let mut record = whole_life();
    record.push(delivered("t2", 1, 5, 20_000));
    breaks(&record, &held(), "after it was settled");
}

#[test]
fn a_settlement_that_the_server_did_not_answer_may_come_again() {
    let record = [
        intent(),
        acked(false),
        delivered("t1", 1, 2, 10_000),
        settling("t1", Outcome::Ack, 11_000),
        adrift("t1"),
        Entry::Down,
        delivered("t2", 1, 6, 20_000),
        settling("t2", Outcome::Ack, 21_000),
        settled("t2", Said::Done),
    ];
    holds(&record);
    // Nor is it a loss when it does not: it may have counted.
    holds(&record[..6]);
    assert_eq!(judge(&record, &held(), LEASE).redelivered, 1);
}

#[test]
fn a_lease_may_die_with_the_server_while_its_settlement_is_sent_again() {
    holds(&[
        intent(),
        acked(false),
        delivered("t1", 1, 2, 10_000),
        settling("t1", Outcome::Ack, 11_000),
        adrift("t1"),
        Entry::Down,
        settling("t1", Outcome::Ack, 15_000),
        delivered("t2", 1, 6, 16_000),
        settled("t1", Said::Late),
        settling("t2", Outcome::Ack, 17_000),
        settled("t2", Said::Done),
    ]);
}

#[test]
fn a_delivery_has_one_owner() {
    let mut record = whole_life();
    record.insert(3, delivered("t2", 1, 2, 12_000));
    breaks(&record, &held(), "while another delivery");
    let after_the_lease = delivered("t2", 1, 2, 10_000 + LEASE);
    record[3] = after_the_lease;
    holds(&record);
}

#[test]
fn a_retry_comes_back_when_due_with_the_next_attempt() {
    let retry = |attempt, at| {
        vec![
            intent(),
            acked(false),
            delivered("t1", 1, 2, 10_000),
            settling("t1", Outcome::Retry(50_000), 11_000),
            settled("t1", Said::Done),
            delivered("t2", attempt, 5, at),
            settling("t2", Outcome::Ack, 99_000),
            settled("t2", Said::Done),
        ]
    };
    holds(&retry(2, 61_500));
    breaks(&retry(2, 30_000), &held(), "too early");
    breaks(&retry(1, 61_500), &held(), "same attempt");
    breaks(&retry(2, 61_500)[..5], &held(), "never settled");
}

#[test]
fn each_kept_event_reaches_the_subscription() {
    breaks(&whole_life()[..2], &held(), "never delivered");
    breaks(&whole_life()[..3], &held(), "never settled");
}

#[test]
fn the_audit_agrees_with_the_record() {
    let mut bad = held();
    bad.audit_ok = false;
    breaks(&whole_life(), &bad, "breach");
    let with = |change: fn(&mut Balance)| {
        let mut held = held();
        held.audit.values_mut().for_each(change);
        held
    };
    breaks(&whole_life(), &with(|b| b.published = 2), "in the audit");
    breaks(
        &whole_life(),
        &with(|b| b.acknowledged = 0),
        "0 acknowledged",
    );
    breaks(&whole_life(), &with(|b| b.dead = 1), "1 dead");
    breaks(&whole_life(), &with(|b| b.unsettled = 1), "unsettled");
}

#[test]
fn what_was_answered_after_a_power_cut_does_not_count() {
    let mut gone = held();
    gone.history.clear();
    gone.audit.clear();
    let cut = |moment| [whole_life(), vec![Entry::Cut { moment }]].concat();
    breaks(&cut(9_001), &gone, "LOST");
    assert_eq!(
        judge(&cut(9_000), &gone, LEASE).broken,
        Vec::<String>::new()
    );
    // An earlier life is over and done with.
    let before = [whole_life(), vec![Entry::Down, Entry::Cut { moment: 1 }]].concat();
    breaks(&before, &gone, "LOST");
}

#[test]
fn the_attempt_number_falls_only_with_a_retry_in_doubt() {
    let story = |answer: Entry| {
        vec![
            intent(),
            acked(false),
            delivered("t1", 1, 2, 10_000),
            settling("t1", Outcome::Retry(1_000), 11_000),
            delivered("t2", 2, 4, 13_000),
            answer,
            adrift("t2"),
            Entry::Down,
            delivered("t3", 1, 8, 20_000),
        ]
    };
    let fell = |record: &[Entry]| {
        let broken = judge(record, &held(), LEASE).broken;
        broken.iter().any(|said| said.contains("attempt"))
    };
    assert!(!fell(&story(adrift("t1"))));
    assert!(fell(&story(settled("t1", Said::Done))));
}

#[test]
fn what_a_client_saw_go_wrong_counts() {
    let mut record = whole_life();
    record.push(Entry::Wrong {
        what: "other bytes".into(),
    });
    breaks(&record, &held(), "other bytes");
}

#[test]
fn an_event_does_not_overtake_its_key() {
    let of = |id: &str, entry: Entry| match entry {
        Entry::Delivered {
            token,
            attempt,
            since,
            asked,
            at,
            ..
        } => Entry::Delivered {
            sub: "ordered".into(),
            id: id.into(),
            token,
            attempt,
            since,
            asked,
            at,
        },
        Entry::Settling {
            token, outcome, at, ..
        } => Entry::Settling {
            sub: "ordered".into(),
            token,
            outcome,
            at,
        },
        Entry::Settled {
            token, said, at, ..
        } => Entry::Settled {
            sub: "ordered".into(),
            token,
            said,
            at,
        },
        other => other,
    };
    // Both ids have the same key; "ac" has another one.
    let story = |second: &str| {
        let first = [
            of("ad", delivered("t1", 1, 0, 10_000)),
            of("ad", settling("t1", Outcome::Ack, 11_000)),
            of("ad", settled("t1", Said::Done)),
        ];
        let second = of(second, delivered("t2", 1, 0, 10_500));
        (first, second)
    };
    let history: Vec<_> = ["ad", "da", "ac"].map(|id| (id.into(), "1".into())).into();
    let overtaken = |record: &[Entry]| {
        let held = Held {
            history: history.clone(),
            ..Held::default()
        };
        let broken = judge(record, &held, LEASE).broken;
        broken.iter().any(|said| said.contains("came before"))
    };
    let (first, second) = story("da");
    assert!(!overtaken(
        &[&first[..], std::slice::from_ref(&second)].concat()
    ));
    assert!(overtaken(&[&first[..1], &[second], &first[1..]].concat()));
    let (first, other_key) = story("ac");
    assert!(!overtaken(
        &[&first[..1], &[other_key], &first[1..]].concat()
    ));
}

#[test]
fn a_loss_that_nobody_caused_is_a_breach() {
    let mut told = held();
    told.losses = 1;
    breaks(&whole_life(), &told, "losses told");
}

#[test]
fn after_a_deletion_later_events_lose_nothing() {
    let deleted = Entry::Deleted { stream: true };
    let told = || Held {
        losses: 1,
        ..held()
    };
    // What the stream held is gone with it.
    let before = [whole_life(), vec![deleted.clone()]].concat();
    let gone = Held {
        history: Vec::new(),
        ..told()
    };
    assert_eq!(judge(&before, &gone, LEASE).broken, Vec::<String>::new());
    // It has to be told, once.
    breaks(&before, &held(), "told");
    // What came later is there, and reaches everybody.
    let after = [vec![deleted], whole_life()].concat();
    breaks(&after, &gone, "LOST");
    breaks(&after, &told(), "never delivered");
    let groups = [vec![Entry::Deleted { stream: false }], whole_life()].concat();
    let nothing = Held {
        history: Vec::new(),
        ..held()
    };
    breaks(&groups, &nothing, "LOST");
}
