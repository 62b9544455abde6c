//! The entries of each kind of service: a plain client writes what the service writes, byte for byte as
//! the fixtures have it, and finds the same bytes when we publish the event. Here too: system C's
//! stream and its consumer group. What holds for every foreign stream is in [`super::wire`].

use std::sync::Arc;
use std::time::Duration;

use fanfare_conformance::broker::Broker;
use fanfare_core::backend::Backend;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::dead_letter::DeadBody;
use fanfare_core::delivery::{Delivery, Settled};
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};
use fanfare_redis::{
    EntryForm, Form, Groups, PubSubConfig, RedisBackend, RedisConfig, RedisPubSub,
};
use futures::StreamExt as _;
use redis::Value;

use super::stage::{ack, client, command, config, dead_letters, publish_surely, server, within};

const CRUD: &str = include_str!("../../../../crates/core/tests/fixtures/codec-crud-audit.jsonl");
const CRUD_STREAM: &str = "resolvespec:events";
const CRUD_GROUP: &str = "resolvespec-workers";

/// The form's name, a stream of it, and what stands there.
const SERVICES: [(&str, &str, &str); 4] = [
    (
        "job-lifecycle",
        "source-events",
        include_str!("../../../../crates/core/tests/fixtures/codec-job-lifecycle.jsonl"),
    ),
    (
        "notifications",
        "chat-events",
        include_str!("../../../../crates/core/tests/fixtures/codec-notifications.jsonl"),
    ),
    ("crud-audit", CRUD_STREAM, CRUD),
    (
        "workflow",
        "workflow-events",
        include_str!("../../../../crates/core/tests/fixtures/codec-workflow.jsonl"),
    ),
];

fn on(broker: &Broker, wire: &str, stream: &str) -> RedisConfig {
    RedisConfig {
        stream: stream.into(),
        form: Form::Entries(EntryForm::preset(wire).unwrap()),
        ..config(broker.address())
    }
}

/// The fields that the service writes, in its order.
fn entry(wire: &str, json: &str) -> Vec<String> {
    let mut fields = vec!["event".to_owned(), json.to_owned()];
    if wire == "crud-audit" {
        let event: serde_json::Value = serde_json::from_str(json).unwrap();
        for name in ["id", "type", "source", "status", "instance_id"] {
            let value = event.get(name).and_then(serde_json::Value::as_str);
            fields.extend([name.to_owned(), value.unwrap_or_default().to_owned()]);
        }
    }
    fields
}

async fn they_write(broker: &Broker, stream: &str, fields: &[String]) {
    let mut words = vec!["XADD", stream, "*"];
    words.extend(fields.iter().map(String::as_str));
    command(broker, &words).await;
}

/// Ids, and fields with their values.
type Entries = Vec<(String, Vec<String>)>;

async fn they_find(broker: &Broker, stream: &str) -> Vec<Vec<String>> {
    let found = command(broker, &["XRANGE", stream, "-", "+"]).await;
    let found: Entries = redis::from_redis_value(found).unwrap();
    found.into_iter().map(|(_, fields)| fields).collect()
}

async fn take(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let more = count - taken.len();
        let came = within(consumer.receive(more, Duration::from_secs(5))).await;
        taken.extend(came.unwrap());
    }
    taken
}

#[tokio::test]
async fn what_a_service_wrote_is_what_it_finds_when_we_publish_it() {
    let broker = server().await;
    for (wire, stream, fixture) in SERVICES {
        let entries: Vec<_> = fixture.lines().map(|line| entry(wire, line)).collect();
        for fields in &entries {
            they_write(&broker, stream, fields).await;
        }
        let backend = RedisBackend::open(on(&broker, wire, stream)).await.unwrap();
        let consumer = consume(&*backend, "ours", Start::Earliest).await;
        let came = take(&consumer, entries.len()).await;
        for delivery in &came {
            publish_surely(&backend, &delivery.event).await;
        }
        let found = they_find(&broker, stream).await;
        assert_eq!(found, [&entries[..], &entries[..]].concat(), "{wire}");
        ack(&consumer, &came).await.unwrap();
        backend.close().await.unwrap();
    }
}

async fn consume(backend: &dyn Backend, name: &str, start: Start) -> Arc<dyn Consumer> {
    let name: SubscriptionName = name.parse().unwrap();
    let spec = SubscriptionSpec {
        start,
        ..SubscriptionSpec::new(name.clone(), PatternSet::parse(["*"]).unwrap())
    };
    backend.admin().put(&spec).await.unwrap();
    let member = Member {
        name: "ours".into(),
        kind: MemberKind::Embedded,
    };
    backend.consume(&name, member).await.unwrap()
}

#[tokio::test]
async fn what_a_service_shouted_is_what_it_hears_when_we_publish_it() {
    let broker = server().await;
    let (wire, _, fixture) = SERVICES[1];
    let theirs = redis::Client::open(broker.url()).unwrap();
    for prefix in ["events.", "events:"] {
        let config = PubSubConfig::new(on(&broker, wire, prefix));
        let backend = RedisPubSub::open(config).await.unwrap();
        let consumer = consume(&*backend, "notifier", Start::Latest).await;
        for line in fixture.lines() {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            let channel = format!("{prefix}{}", event["event_type"].as_str().unwrap());
            command(&broker, &["PUBLISH", &channel, line]).await;
            let came = take(&consumer, 1).await;
            let mut hearing = theirs.get_async_pubsub().await.unwrap();
            hearing.subscribe(&channel).await.unwrap();
            let sent = backend.publish(std::slice::from_ref(&came[0].event)).await;
            sent.unwrap().remove(0).unwrap();
            let message = within(hearing.on_message().next()).await.unwrap();
            assert_eq!(message.get_payload::<String>().unwrap(), line);
            ack(&consumer, &came).await.unwrap();
            let ours = take(&consumer, 1).await;
            assert_eq!(ours[0].event, came[0].event);
            ack(&consumer, &ours).await.unwrap();
        }
        backend.close().await.unwrap();
    }
}

async fn crud(broker: &Broker) -> (Arc<RedisBackend>, Arc<dyn Consumer>) {
    let config = RedisConfig {
        groups: Groups::One(CRUD_GROUP.parse().unwrap()),
        ..on(broker, "crud-audit", CRUD_STREAM)
    };
    let backend = RedisBackend::open(config).await.unwrap();
    let consumer = consume(&*backend, CRUD_GROUP, Start::Earliest).await;
    (backend, consumer)
}

#[tokio::test]
async fn the_workers_of_a_crud_service_share_their_group_with_us() {
    let broker = server().await;
    let (backend, consumer) = crud(&broker).await;
    let lines: Vec<_> = CRUD.lines().collect();
    for line in &lines {
        they_write(&broker, CRUD_STREAM, &entry("crud-audit", line)).await;
    }
    let mut read = redis::cmd("XREADGROUP");
    read.arg(&["GROUP", CRUD_GROUP, "theirs", "COUNT", "2"]);
    read.arg(&["STREAMS", CRUD_STREAM, ">"]);
    let read: Vec<(String, Entries)> = read.query_async(&mut client(&broker).await).await.unwrap();
    let theirs = &read[0].1;
    let ours = take(&consumer, lines.len() - theirs.len()).await;
    let mut ids: Vec<_> = ours.iter().map(|d| d.event.id().to_string()).collect();
    ids.extend(theirs.iter().map(|(_, fields)| fields[3].clone()));
    ids.sort();
    assert_eq!(ids, ["e-1", "e-2", "e-3", "e-4", "e-5"]);
    let settled = ack(&consumer, &ours).await.unwrap();
    assert!(settled.iter().all(|settled| *settled == Settled::Done));
    for (id, _) in theirs {
        command(&broker, &["XACK", CRUD_STREAM, CRUD_GROUP, id]).await;
    }
    let pending = command(&broker, &["XPENDING", CRUD_STREAM, CRUD_GROUP]).await;
    let pending: Vec<Value> = redis::from_redis_value(pending).unwrap();
    assert_eq!(pending[0], Value::Int(0));
    backend.close().await.unwrap();
}

#[tokio::test]
async fn an_entry_that_is_no_crud_event_becomes_a_dead_letter_with_its_bytes() {
    let broker = server().await;
    let (backend, consumer) = crud(&broker).await;
    let good = CRUD.lines().next().unwrap();
    let mut bad = [
        good.replace(r#""user_id":42"#, r#""user_id":"ada""#),
        good.replace("2026-11-20T10:00:00Z", "yesterday"),
        "{\"id\":".to_owned(),
    ];
    for json in &bad {
        let mut fields = entry("crud-audit", good);
        fields[1].clone_from(json);
        they_write(&broker, CRUD_STREAM, &fields).await;
    }
    they_write(&broker, CRUD_STREAM, &entry("crud-audit", good)).await;
    let came = take(&consumer, 1).await;
    assert_eq!(came[0].event.id().to_string(), "e-1");
    ack(&consumer, &came).await.unwrap();
    let letters = dead_letters(&backend).await;
    let raw = letters.iter().map(|letter| match &letter.body {
        DeadBody::Raw(bytes) => std::str::from_utf8(bytes).unwrap(),
        DeadBody::Event(_) => "an event",
    });
    let mut raw: Vec<_> = raw.collect();
    raw.sort_unstable();
    bad.sort_unstable();
    assert_eq!(raw, bad);
}
