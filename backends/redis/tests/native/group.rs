//! Consumer groups that existing services are in too: plain clients stand for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fanfare_conformance::broker::Broker;
use fanfare_core::backend::Backend;
use fanfare_core::clock::Clock;
use fanfare_core::consumer::Consumer;
use fanfare_core::dead_letter::{DeadBody, DeadLetterFilter, Selection};
use fanfare_core::delivery::{Delivery, Settled, Settlement};
use fanfare_core::error::ErrorKind;
use fanfare_redis::{Groups, RedisBackend, RedisConfig};
use redis::aio::MultiplexedConnection;

use super::stage::{ack, all, client, command, dead_letters, join, server, subscribe, within};
use super::wire::{lifecycle, they_publish};

const LEASE: Duration = Duration::from_secs(30);
/// How long an entry may be idle here: the services' 30 s, made short.
const TAKEOVER: Duration = Duration::from_millis(600);

fn config(broker: &Broker, consumer: &str) -> RedisConfig {
    RedisConfig {
        groups: Groups::One(all()),
        consumer: Some(consumer.into()),
        takeover: TAKEOVER,
        ..lifecycle(broker)
    }
}

async fn opened() -> (Broker, Arc<RedisBackend>, Arc<dyn Consumer>) {
    let broker = server().await;
    let backend = RedisBackend::open(config(&broker, "crawler-ours"))
        .await
        .unwrap();
    let consumer = subscribe(&backend, LEASE).await;
    (broker, backend, consumer)
}

fn json(n: usize) -> String {
    format!(r#"{{"event_id":"e-{n}","event_type":"SOURCE_CREATED","source_id":"s-{n}","#)
        + r#""timestamp":"2026-11-20T10:00:00Z","payload":{"previous":null,"rate_limit":"10/s"}}"#
}

async fn they_publish_many(broker: &Broker, from: usize, count: usize) -> BTreeSet<String> {
    for n in from..from + count {
        they_publish(broker, &json(n)).await;
    }
    (from..from + count).map(|n| format!("e-{n}")).collect()
}

type Entries = Vec<(String, BTreeMap<String, String>)>;

/// Reads as the services do; `block` in milliseconds, if any.
async fn they_read(
    theirs: &mut MultiplexedConnection,
    count: usize,
    block: Option<usize>,
) -> Entries {
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg("all")
        .arg("crawler-theirs")
        .arg("COUNT")
        .arg(count);
    if let Some(block) = block {
        read.arg("BLOCK").arg(block);
    }
    read.arg("STREAMS").arg("source-events").arg(">");
    let answer: Option<Vec<(String, Entries)>> = read.query_async(theirs).await.unwrap();
    answer
        .into_iter()
        .flatten()
        .flat_map(|(_, entries)| entries)
        .collect()
}

fn their_id(entry: &BTreeMap<String, String>) -> String {
    let event: serde_json::Value = serde_json::from_str(&entry["event"]).unwrap();
    event["event_id"].as_str().unwrap().to_owned()
}

fn ids(deliveries: &[Delivery]) -> BTreeSet<String> {
    deliveries
        .iter()
        .map(|d| d.event.id().to_string())
        .collect()
}

/// Exactly `count` deliveries.
async fn take(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<Delivery> {
    let taking = async {
        let mut taken = Vec::new();
        while taken.len() < count {
            let most = count - taken.len();
            taken.extend(
                consumer
                    .receive(most, Duration::from_secs(1))
                    .await
                    .unwrap(),
            );
        }
        taken
    };
    within(taking).await
}

async fn pending(broker: &Broker) -> u64 {
    let mut ask = redis::cmd("XPENDING");
    ask.arg("source-events").arg("all");
    let answer: Vec<redis::Value> = ask.query_async(&mut client(broker).await).await.unwrap();
    redis::from_redis_value(answer.into_iter().next().unwrap()).unwrap()
}

/// Receives, though nothing is to come, until nothing of the group is pending.
async fn settle_all(broker: &Broker, consumer: &Arc<dyn Consumer>) {
    let waiting = async {
        while pending(broker).await > 0 {
            let came = consumer.receive(1, Duration::from_millis(100)).await;
            assert_eq!(ids(&came.unwrap()), BTreeSet::new());
        }
    };
    within(waiting).await;
}

#[tokio::test]
async fn a_service_of_the_same_group_shares_the_events_with_us() {
    let (broker, backend, consumer) = opened().await;
    let mut theirs = client(&broker).await;
    let expected = they_publish_many(&broker, 0, 30).await;
    let read = they_read(&mut theirs, 10, None).await;
    let ours = take(&consumer, 20).await;
    let mut came = ids(&ours);
    came.extend(read.iter().map(|(_, entry)| their_id(entry)));
    assert_eq!(came, expected, "each to one member, none twice");
    let counts = backend.admin().get(&all()).await.unwrap().counts;
    assert_eq!((counts.published, counts.in_flight), (30, 30));
    assert_eq!(
        ack(&consumer, &ours).await.unwrap(),
        vec![Settled::Done; 20]
    );
    for (id, _) in read {
        command(&broker, &["XACK", "source-events", "all", &id]).await;
    }
    assert_eq!(pending(&broker).await, 0);
    let counts = backend.admin().get(&all()).await.unwrap().counts;
    assert_eq!((counts.published, counts.acknowledged), (30, 30));
    let audited = backend.admin().audit(Some(&all())).await.unwrap_err();
    assert_eq!(audited.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_group_that_was_there_goes_on_where_it_is() {
    let broker = server().await;
    they_publish_many(&broker, 0, 3).await;
    command(&broker, &["XGROUP", "CREATE", "source-events", "all", "0"]).await;
    let mut theirs = client(&broker).await;
    let read = they_read(&mut theirs, 2, None).await;
    command(&broker, &["XACK", "source-events", "all", &read[0].0]).await;
    let backend = RedisBackend::open(config(&broker, "crawler-ours"))
        .await
        .unwrap();
    let consumer = subscribe(&backend, LEASE).await;
    let came = take(&consumer, 1).await;
    assert_eq!(ids(&came), BTreeSet::from(["e-2".into()]));
    assert_eq!(ack(&consumer, &came).await.unwrap(), [Settled::Done]);
    // What their dead member left comes to us as another attempt.
    let came = take(&consumer, 1).await;
    assert_eq!(ids(&came), BTreeSet::from(["e-1".into()]));
    assert_eq!(came[0].attempt, 2);
}

#[tokio::test]
async fn nobody_steals_from_a_handler_that_lives_nor_a_retry_that_waits() {
    let (broker, _backend, consumer) = opened().await;
    they_publish_many(&broker, 0, 2).await;
    let held = take(&consumer, 2).await;
    let after = Duration::from_secs(3);
    let retry = Settlement::Retry {
        after,
        error: "not yet".into(),
    };
    within(consumer.settle(vec![(held[1].receipt, retry)]))
        .await
        .unwrap();
    let clock = Clock::system();
    let until = clock.now() + TAKEOVER * 4;
    let mut theirs = client(&broker).await;
    while clock.now() < until {
        // As the services do, with the idle time that they and we agreed on.
        let mut claim = redis::cmd("XAUTOCLAIM");
        claim.arg("source-events").arg("all").arg("crawler-theirs");
        claim
            .arg(TAKEOVER.as_millis().to_string())
            .arg("0")
            .arg("COUNT")
            .arg(10);
        let stolen: (String, Entries) =
            redis::from_redis_value(first_two(claim.query_async(&mut theirs).await.unwrap()))
                .unwrap();
        assert_eq!(stolen.1, []);
        assert_eq!(they_read(&mut theirs, 10, Some(50)).await, []);
    }
    assert_eq!(ack(&consumer, &held[..1]).await.unwrap(), [Settled::Done]);
    let again = take(&consumer, 1).await;
    assert_eq!(
        (again[0].event.id(), again[0].attempt),
        (held[1].event.id(), 2)
    );
}

fn first_two(answer: redis::Value) -> redis::Value {
    match answer {
        redis::Value::Array(values) => redis::Value::Array(values.into_iter().take(2).collect()),
        other => other,
    }
}

#[tokio::test]
async fn what_others_took_over_and_settled_is_not_ours_any_more() {
    let (broker, _backend, consumer) = opened().await;
    they_publish_many(&broker, 0, 2).await;
    let held = take(&consumer, 2).await;
    let ids: Vec<(String, BTreeMap<String, String>)> = redis::cmd("XRANGE")
        .arg("source-events")
        .arg("-")
        .arg("+")
        .query_async(&mut client(&broker).await)
        .await
        .unwrap();
    command(&broker, &["XACK", "source-events", "all", &ids[0].0]).await;
    assert_eq!(
        ack(&consumer, &held).await.unwrap(),
        [Settled::Late, Settled::Done]
    );
}

#[tokio::test]
async fn a_lost_group_is_made_again_and_nothing_is_lost() {
    let (broker, _backend, consumer) = opened().await;
    let mut expected = they_publish_many(&broker, 0, 10).await;
    let held = take(&consumer, 6).await;
    assert_eq!(
        ack(&consumer, &held[..3]).await.unwrap(),
        vec![Settled::Done; 3]
    );
    command(&broker, &["XGROUP", "DESTROY", "source-events", "all"]).await;
    // What was held is settled all the same, and does not come again.
    assert_eq!(
        ack(&consumer, &held[3..5]).await.unwrap(),
        vec![Settled::Done; 2]
    );
    expected.extend(they_publish_many(&broker, 10, 5).await);
    let settled = ids(&held[..5]);
    let mut came = BTreeSet::new();
    let mut left: BTreeSet<_> = expected.difference(&settled).cloned().collect();
    left.remove(&held[5].event.id().to_string());
    while !left.is_empty() {
        let more = within(consumer.receive(10, Duration::from_secs(2)))
            .await
            .unwrap();
        ack(&consumer, &more).await.unwrap();
        for id in ids(&more) {
            assert!(came.insert(id.clone()), "{id} came twice");
            assert!(!settled.contains(&id), "{id} was settled");
            left.remove(&id);
        }
    }
    assert_eq!(ack(&consumer, &held[5..]).await.unwrap(), [Settled::Done]);
    settle_all(&broker, &consumer).await;
}

#[tokio::test]
async fn a_lost_stream_is_made_again_with_its_group() {
    let (broker, backend, consumer) = opened().await;
    they_publish_many(&broker, 0, 3).await;
    let held = take(&consumer, 1).await;
    assert_eq!(backend.admin().stats().await.unwrap().losses, 0);
    command(&broker, &["DEL", "source-events"]).await;
    assert_eq!(backend.admin().stats().await.unwrap().losses, 1);
    assert_eq!(ack(&consumer, &held).await.unwrap(), [Settled::Done]);
    // The services make their group again too, as soon as they hear that it is gone.
    let again = ["XGROUP", "CREATE", "source-events", "all", "0", "MKSTREAM"];
    let mut create = redis::Cmd::new();
    for word in again {
        create.arg(word);
    }
    let _: redis::RedisResult<()> = create.query_async(&mut client(&broker).await).await;
    let expected = they_publish_many(&broker, 3, 3).await;
    let came = take(&consumer, 3).await;
    assert_eq!(ids(&came), expected);
    assert_eq!(ack(&consumer, &came).await.unwrap(), vec![Settled::Done; 3]);
    assert_eq!(backend.admin().stats().await.unwrap().losses, 1);
}

#[tokio::test]
async fn an_event_without_end_is_given_up_and_its_bytes_are_kept() {
    let (broker, backend, consumer) = opened().await;
    they_publish(&broker, "not json").await;
    they_publish_many(&broker, 1, 1).await;
    let held = take(&consumer, 1).await;
    let dead = Settlement::DeadLetter {
        reason: "rejected".into(),
        error: "no".into(),
    };
    within(consumer.settle(vec![(held[0].receipt, dead)]))
        .await
        .unwrap();
    settle_all(&broker, &consumer).await;
    let letters = dead_letters(&backend).await;
    assert_eq!(letters.len(), 2);
    assert!(
        letters
            .iter()
            .any(|l| matches!(&l.body, DeadBody::Raw(bytes) if bytes == "not json"))
    );
    let all_of_them = Selection::Filter(DeadLetterFilter::default());
    let acted = backend
        .dead_letters()
        .redrive(&all_of_them, 10)
        .await
        .unwrap();
    assert_eq!(acted.done, 2);
    let again = take(&consumer, 1).await;
    assert_eq!((ids(&again), again[0].attempt), (ids(&held), 1));
    assert_eq!(ack(&consumer, &again).await.unwrap(), [Settled::Done]);
}

#[tokio::test]
async fn the_deliveries_of_a_process_that_died_go_to_another_and_back_to_the_services() {
    let (broker, dying, consumer) = opened().await;
    they_publish_many(&broker, 0, 4).await;
    let held = take(&consumer, 2).await;
    assert_eq!(held.len(), 2);
    // Nothing is closed: as if the process had been killed.
    drop((consumer, dying));
    let mut theirs = client(&broker).await;
    let rest = they_read(&mut theirs, 10, None).await;
    let mut came: BTreeMap<_, _> = rest
        .into_iter()
        .map(|(id, entry)| (their_id(&entry), id))
        .collect();
    while came.len() < 4 {
        let mut claim = redis::cmd("XAUTOCLAIM");
        claim
            .arg("source-events")
            .arg("all")
            .arg("crawler-theirs")
            .arg(TAKEOVER.as_millis().to_string())
            .arg("0");
        let answer = claim.query_async(&mut theirs).await.unwrap();
        let claimed: (String, Entries) = redis::from_redis_value(first_two(answer)).unwrap();
        let claimed = claimed.1.into_iter();
        came.extend(claimed.map(|(id, entry)| (their_id(&entry), id)));
        assert_eq!(they_read(&mut theirs, 10, Some(50)).await, []);
    }
    for id in came.values() {
        command(&broker, &["XACK", "source-events", "all", id]).await;
    }
    // When one of ours comes back it does not do again what they did.
    let backend = RedisBackend::open(config(&broker, "crawler-again"))
        .await
        .unwrap();
    let consumer = join(&backend).await;
    they_publish_many(&broker, 4, 1).await;
    let next = take(&consumer, 1).await;
    assert_eq!(ids(&next), BTreeSet::from(["e-4".into()]));
}
