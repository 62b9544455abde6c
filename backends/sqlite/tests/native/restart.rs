//! Restarts, clean and not: everything that was acknowledged is there, everything else comes again.

use std::time::Duration;

use fanfare_core::backend::Backend;
use fanfare_core::dead_letter::{DeadLetterFilter, Selection};
use fanfare_core::delivery::{Settled, Settlement};
use fanfare_core::subscription::SubscriptionSpec;

use super::stage::*;

fn retry(after: Duration) -> Settlement {
    Settlement::Retry {
        after,
        error: "not yet".into(),
    }
}

fn dead() -> Settlement {
    Settlement::DeadLetter {
        reason: "rejected".into(),
        error: "no".into(),
    }
}

#[tokio::test]
async fn published_events_are_there_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let backend = open(dir.path()).await;
    backend.admin().put(&spec("all", "**")).await.unwrap();
    publish(&backend, 1..=1_000).await;
    let copy = crash(dir.path());
    let after = open(copy.path()).await;
    assert_eq!(drain(&join(&after, "all").await).await, ids(1..=1_000));
    let again = publish(&after, 1..=1_000).await;
    assert!(again.iter().all(|p| p.duplicate), "all are known");
    assert_balanced(&after).await;
}

#[tokio::test]
async fn a_clean_restart_keeps_retries_letters_pauses_and_counters() {
    let dir = tempfile::tempdir().unwrap();
    let backend = open(dir.path()).await;
    backend.admin().put(&spec("all", "**")).await.unwrap();
    backend.admin().put(&spec("odd", "*.odd")).await.unwrap();
    backend
        .admin()
        .set_paused(&name("odd"), true)
        .await
        .unwrap();
    publish(&backend, 1..=10).await;
    let consumer = join(&backend, "all").await;
    let deliveries = receive(&consumer, 10).await;
    settle(&consumer, &deliveries[0], Settlement::Ack).await;
    settle(&consumer, &deliveries[1], retry(Duration::from_mins(1))).await;
    settle(&consumer, &deliveries[2], dead()).await;
    settle(&consumer, &deliveries[3], Settlement::Drop).await;
    let before = backend.admin().get(&name("all")).await.unwrap().counts;
    assert_eq!(before.in_flight, 6);
    backend.close().await.unwrap();
    drop((consumer, backend));

    let config = config(dir.path());
    let clock = config.clock.clone();
    let backend = fanfare_sqlite::SqliteBackend::open(config).await.unwrap();
    let after = backend.admin().get(&name("all")).await.unwrap().counts;
    assert_eq!(after.in_flight, 0, "a clean close releases what was leased");
    assert_eq!(after.waiting, before.waiting + 6);
    assert_eq!((after.acknowledged, after.dropped, after.dead), (1, 1, 1));
    assert!(backend.admin().get(&name("odd")).await.unwrap().paused);
    assert!(receive(&join(&backend, "odd").await, 10).await.is_empty());
    let consumer = join(&backend, "all").await;
    let released = receive(&consumer, 10).await;
    let attempts: Vec<u32> = released.iter().map(|d| d.attempt).collect();
    assert_eq!(attempts, [1; 6], "released deliveries are not charged");
    for delivery in &released {
        settle(&consumer, delivery, Settlement::Ack).await;
    }
    clock.advance(Duration::from_mins(1));
    let due = receive(&consumer, 10).await;
    assert_eq!((due.len(), due[0].attempt), (1, 2));
    let all = Selection::Filter(DeadLetterFilter::default());
    let acted = backend.dead_letters().redrive(&all, 10).await.unwrap();
    assert_eq!((acted.matched, acted.done), (1, 1));
    let redriven = receive(&consumer, 10).await;
    assert_eq!((redriven.len(), redriven[0].attempt), (1, 1));
    assert_eq!(redriven[0].event, event(3));
    assert_balanced(&backend).await;
}

#[tokio::test]
async fn what_ran_at_a_crash_comes_back_alone_and_charged_only_then() {
    let dir = tempfile::tempdir().unwrap();
    let backend = open(dir.path()).await;
    backend.admin().put(&spec("all", "**")).await.unwrap();
    publish(&backend, 1..=20).await;
    let consumer = join(&backend, "all").await;
    let deliveries = receive(&consumer, 4).await;
    settle(&consumer, &deliveries[0], Settlement::Ack).await;
    let copy = crash(dir.path());

    let after = open(copy.path()).await;
    let consumer = join(&after, "all").await;
    for expected in 2..=4 {
        let alone = receive(&consumer, 10).await;
        assert_eq!(alone.len(), 1, "a suspect comes alone");
        assert_eq!(alone[0].event, event(expected));
        assert_eq!(alone[0].attempt, 1);
        assert!(
            receive(&consumer, 10).await.is_empty(),
            "and nothing beside it"
        );
        settle(&consumer, &alone[0], Settlement::Ack).await;
    }
    assert_eq!(drain(&consumer).await, ids(5..=20));
    assert_balanced(&after).await;
}

#[tokio::test]
async fn a_poison_event_is_given_up_after_max_attempts_crashes() {
    let mut dir = tempfile::tempdir().unwrap();
    {
        let backend = open(dir.path()).await;
        backend.admin().put(&spec("all", "**")).await.unwrap();
        publish(&backend, 1..=3).await;
        backend.close().await.unwrap();
    }
    let attempts = SubscriptionSpec::new(name("x"), spec("x", "**").patterns)
        .retry
        .max_attempts;
    let mut deaths = 0;
    loop {
        let backend = open(dir.path()).await;
        let consumer = join(&backend, "all").await;
        let deliveries = receive(&consumer, 1).await;
        if deliveries[0].event != event(1) {
            backend.close().await.unwrap();
            break;
        }
        deaths += 1;
        assert!(deaths <= attempts + 1, "it kills us for ever");
        dir = crash(dir.path());
    }
    assert_eq!(deaths, attempts + 1);
    let backend = open(dir.path()).await;
    let counts = backend.admin().get(&name("all")).await.unwrap().counts;
    assert_eq!(counts.published, 3);
    assert_balanced(&backend).await;
}

#[tokio::test]
async fn every_moment_of_a_busy_run_can_be_crashed_at() {
    let dir = tempfile::tempdir().unwrap();
    let backend = open(dir.path()).await;
    backend.admin().put(&spec("all", "**")).await.unwrap();
    let ordered = SubscriptionSpec {
        ordered: true,
        ..spec("ordered", "**")
    };
    backend.admin().put(&ordered).await.unwrap();
    for round in 0..20_u64 {
        let events: Vec<_> = (round * 30..round * 30 + 30)
            .map(|n| keyed(n, Some(["a", "b", "c"][(n % 3) as usize])))
            .collect();
        backend.publish(&events).await.unwrap();
        for sub in ["all", "ordered"] {
            let consumer = join(&backend, sub).await;
            let deliveries = receive(&consumer, 17).await;
            let mut settlements = Vec::new();
            for (index, delivery) in deliveries.iter().enumerate() {
                let how = match index % 5 {
                    0 => retry(Duration::ZERO),
                    1 => dead(),
                    2 => continue,
                    _ => Settlement::Ack,
                };
                settlements.push((delivery.receipt, how));
            }
            let answers = consumer.settle(settlements).await.unwrap();
            assert!(answers.iter().all(|a| *a == Settled::Done));
            let copy = crash(dir.path());
            let other = open(copy.path()).await;
            assert_balanced(&other).await;
            let published = other
                .admin()
                .get(&name(sub))
                .await
                .unwrap()
                .counts
                .published;
            assert_eq!(published, round * 30 + 30);
            consumer.close().await.unwrap();
        }
    }
    let all = Selection::Filter(DeadLetterFilter::default());
    let acted = backend
        .dead_letters()
        .redrive(&all, usize::MAX)
        .await
        .unwrap();
    assert!(acted.done > 10 && acted.done == acted.matched, "{acted:?}");
    let copy = crash(dir.path());
    for backend in [backend, open(copy.path()).await] {
        assert_balanced(&backend).await;
        drain(&join(&backend, "all").await).await;
        drain(&join(&backend, "ordered").await).await;
        for info in backend.admin().list().await.unwrap() {
            assert_eq!(info.counts.acknowledged, 600, "{info:?}");
            assert_eq!(info.counts.unsettled(), 0);
        }
        assert_balanced(&backend).await;
    }
}
