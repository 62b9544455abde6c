//! Streams of services that are there already: a plain client writes what the service writes, byte for
//! byte as the fixtures have it, and finds the same bytes when we publish the event.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fanfare_conformance::broker::{Broker, Durability, nats};
use fanfare_core::backend::Backend;
use fanfare_core::consumer::Consumer;
use fanfare_core::dead_letter::{DeadBody, DeadLetterFilter};
use fanfare_core::delivery::{Delivery, Settlement};
use fanfare_core::error::ErrorKind;
use fanfare_core::event::Event;
use fanfare_nats::{Form, MessageForm, NatsBackend, NatsConfig};
use serde_json::{Value, json};

use crate::{member, spec};

const CRUD: &str = include_str!("../../../../crates/core/tests/fixtures/codec-crud-audit.jsonl");
const MAIL: &str = include_str!("../../../../crates/core/tests/fixtures/codec-identity-mail.jsonl");
const WORKFLOW: &str = include_str!("../../../../crates/core/tests/fixtures/codec-workflow.jsonl");

/// How often a receive may find nothing.
const PATIENCE: usize = 10;

/// A service's own client.
struct Theirs(async_nats::Client);

impl Theirs {
    async fn at(broker: &Broker) -> Self {
        Self(async_nats::connect(broker.url()).await.unwrap())
    }

    async fn call(&self, call: &str, body: &Value) -> Value {
        let body = body.to_string().into();
        let answer = self.0.request(format!("$JS.API.{call}"), body).await;
        serde_json::from_slice(&answer.unwrap().payload).unwrap()
    }

    async fn make_stream(&self, name: &str, subjects: &[&str], more: &Value) {
        let mut config = json!({
            "name": name, "subjects": subjects, "retention": "limits", "discard": "old",
            "storage": "file",
        });
        let more = more.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(more);
        let made = self.call(&format!("STREAM.CREATE.{name}"), &config).await;
        assert!(made.get("error").is_none(), "{made}");
    }

    /// Waits until the stream has it.
    async fn write(&self, subject: &str, payload: &str) {
        let payload = payload.to_owned().into();
        let answer = self.0.request(subject.to_owned(), payload).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert!(answer["seq"].is_u64(), "{answer}");
    }

    /// Subject and payload of a message.
    async fn read(&self, stream: &str, seq: usize) -> (String, String) {
        let call = format!("STREAM.MSG.GET.{stream}");
        let found = self.call(&call, &json!({ "seq": seq })).await;
        let message = &found["message"];
        let data = STANDARD.decode(message["data"].as_str().unwrap()).unwrap();
        let subject = message["subject"].as_str().unwrap();
        (subject.to_owned(), String::from_utf8(data).unwrap())
    }
}

fn config(broker: &Broker, wire: &str, stream: &str, prefix: &str) -> NatsConfig {
    NatsConfig {
        form: Form::Messages(MessageForm::preset(wire, prefix).unwrap()),
        ..NatsConfig::new(broker.url(), stream)
    }
}

async fn crud(broker: &Broker) -> (Arc<NatsBackend>, Arc<dyn Consumer>) {
    join(config(broker, "crud-audit", "EVENTS", "events")).await
}

async fn join(config: NatsConfig) -> (Arc<NatsBackend>, Arc<dyn Consumer>) {
    let backend = NatsBackend::open(config).await.unwrap();
    backend.admin().put(&spec("all")).await.unwrap();
    let name = "all".parse().unwrap();
    let consumer = backend.consume(&name, member()).await.unwrap();
    (backend, consumer)
}

async fn take(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    for _ in 0..PATIENCE {
        let wait = Duration::from_secs(1);
        let came = consumer.receive(count - taken.len(), wait).await.unwrap();
        let acks = came.iter().map(|d| (d.receipt, Settlement::Ack));
        consumer.settle(acks.collect()).await.unwrap();
        taken.extend(came);
        if taken.len() == count {
            return taken;
        }
    }
    panic!("{} of {count} events came", taken.len())
}

fn ids(deliveries: &[Delivery]) -> Vec<String> {
    let ids = deliveries.iter().map(|d| d.event.id().to_string());
    ids.collect()
}

/// The subject on which system C publishes.
fn crud_subject(json: &str) -> String {
    let event: Value = serde_json::from_str(json).unwrap();
    let text = |name: &str| event[name].as_str().unwrap().to_owned();
    format!("events.{}.{}", text("source"), text("type"))
}

fn workflow_subject(json: &str) -> String {
    let event: Value = serde_json::from_str(json).unwrap();
    format!("workflow.{}", event["type"].as_str().unwrap())
}

/// Of forms whose JSON does not say the type.
fn mail_subject(json: &str) -> String {
    let event: Value = serde_json::from_str(json).unwrap();
    let data = &event["payload"]["data"];
    let told = if data["otp_code"].is_string() {
        "email.verification.requested"
    } else if data["plan_code"].is_string() {
        "subscription.created"
    } else if data["new_status"].is_string() {
        "subscription.status_changed"
    } else if data["project_id"].is_string() {
        "project.created"
    } else {
        "subscription.cancelled"
    };
    format!("smap.events.{told}")
}

#[tokio::test]
async fn what_a_service_wrote_is_what_it_finds_when_we_publish_it() {
    type Subject = fn(&str) -> String;
    let services: [(&str, &str, &str, &str, Subject); 3] = [
        ("crud-audit", "EVENTS", "events", CRUD, crud_subject),
        (
            "workflow",
            "WORKFLOW",
            "workflow",
            WORKFLOW,
            workflow_subject,
        ),
        ("identity-mail", "SMAP", "smap.events", MAIL, mail_subject),
    ];
    let broker = Broker::start(nats(), Durability::Periodic).await.unwrap();
    let theirs = Theirs::at(&broker).await;
    for (wire, stream, prefix, fixture, subject) in services {
        let all = format!("{prefix}.>");
        theirs.make_stream(stream, &[&all], &json!({})).await;
        for line in fixture.lines() {
            theirs.write(&subject(line), line).await;
        }
        let (backend, consumer) = join(config(&broker, wire, stream, prefix)).await;
        let came = take(&consumer, fixture.lines().count()).await;
        let events: Vec<Event> = came.into_iter().map(|d| d.event).collect();
        for answer in backend.publish(&events).await.unwrap() {
            assert!(!answer.unwrap().duplicate);
        }
        for answer in backend.publish(&events).await.unwrap() {
            assert!(answer.unwrap().duplicate);
        }
        let count = fixture.lines().count();
        for (at, line) in fixture.lines().enumerate() {
            let written = (subject(line), line.to_owned());
            assert_eq!(theirs.read(stream, at + 1).await, written);
            assert_eq!(theirs.read(stream, count + at + 1).await, written, "ours");
        }
        backend.close().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_no_event_becomes_a_dead_letter_and_what_is_elsewhere_does_not() {
    let broker = Broker::start(nats(), Durability::Periodic).await.unwrap();
    let theirs = Theirs::at(&broker).await;
    let subjects = ["events.>", "jobs.>"];
    theirs.make_stream("EVENTS", &subjects, &json!({})).await;
    let (backend, consumer) = crud(&broker).await;
    let good = CRUD.lines().next().unwrap();
    let bad = [
        good.replace(r#""user_id":42"#, r#""user_id":"ada""#),
        "{\"id\":".to_owned(),
    ];
    for json in &bad {
        theirs.write("jobs.done", json).await;
        theirs.write(&crud_subject(good), json).await;
    }
    theirs.write(&crud_subject(good), good).await;
    theirs.write("jobs.done", good).await;
    assert_eq!(ids(&take(&consumer, 1).await), ["e-1"]);
    let everything = DeadLetterFilter::default();
    let letters = backend.dead_letters().list(&everything, None, 10).await;
    let letters = letters.unwrap().items;
    let raw = letters.iter().map(|letter| match &letter.body {
        DeadBody::Raw(bytes) => std::str::from_utf8(bytes).unwrap(),
        DeadBody::Event(_) => "an event",
    });
    let mut raw: Vec<_> = raw.collect();
    raw.sort_unstable_by_key(|json| std::cmp::Reverse(json.len()));
    assert_eq!(raw, bad);
    let audited = backend.admin().audit(None).await.unwrap().remove(0);
    assert_eq!(audited.breaches, []);
    assert_eq!((audited.counts.published, audited.counts.dead), (3, 2));
    backend.close().await.unwrap();
}

#[tokio::test]
async fn what_the_bounds_of_their_stream_drop_is_a_loss_only_where_somebody_needed_it() {
    let broker = Broker::start(nats(), Durability::Periodic).await.unwrap();
    let theirs = Theirs::at(&broker).await;
    let bounds = json!({ "max_msgs": 3 });
    theirs.make_stream("EVENTS", &["events.>"], &bounds).await;
    let (backend, consumer) = crud(&broker).await;
    let good = CRUD.lines().next().unwrap();
    let publish = async |from: usize, count: usize| {
        for n in from..from + count {
            let json = good.replace("e-1", &format!("e-{n}"));
            theirs
                .write("events.database.public.users.create", &json)
                .await;
        }
    };
    let losses = async |backend: &NatsBackend| {
        let stats = backend.admin().stats().await.unwrap();
        (stats.losses, stats.lost)
    };
    for from in [0, 3, 6] {
        publish(from, 3).await;
        take(&consumer, 3).await;
        assert_eq!(losses(&backend).await, (0, 0));
    }
    publish(9, 10).await;
    let (told, lost) = losses(&backend).await;
    assert!(told > 0 && lost == 7, "{told} {lost}");
    assert_eq!(ids(&take(&consumer, 3).await), ["e-16", "e-17", "e-18"]);
    // So it is where nobody was there when they were dropped.
    backend.close().await.unwrap();
    publish(19, 5).await;
    let (backend, consumer) = crud(&broker).await;
    assert_eq!(losses(&backend).await, (told + 1, 9));
    assert_eq!(ids(&take(&consumer, 3).await), ["e-21", "e-22", "e-23"]);
    let audited = backend.admin().audit(None).await.unwrap().remove(0);
    assert_eq!(audited.breaches, []);
    assert!(audited.counts.balanced(), "{audited:?}");
    assert_eq!(losses(&backend).await, (told + 1, 9));
    backend.close().await.unwrap();
}

#[tokio::test]
async fn a_stream_that_is_missing_is_made_for_all_of_its_subjects() {
    let broker = Broker::start(nats(), Durability::Periodic).await.unwrap();
    let (backend, consumer) = crud(&broker).await;
    let theirs = Theirs::at(&broker).await;
    for line in CRUD.lines() {
        theirs.write(&crud_subject(line), line).await;
    }
    let came = take(&consumer, CRUD.lines().count()).await;
    assert_eq!(ids(&came), ["e-1", "e-2", "e-3", "e-4", "e-5"]);
    backend.close().await.unwrap();
}

#[tokio::test]
async fn a_stream_that_is_no_log_of_such_subjects_is_refused() {
    let broker = Broker::start(nats(), Durability::Periodic).await.unwrap();
    let theirs = Theirs::at(&broker).await;
    let others = [
        ("queue", json!({ "retention": "workqueue" })),
        ("newest", json!({ "max_msgs_per_subject": 1 })),
        ("silent", json!({ "no_ack": true })),
        ("log", json!({})),
    ];
    for (name, settings) in &others {
        let subjects = [format!("{name}.>")];
        let subjects = subjects.each_ref().map(String::as_str);
        theirs.make_stream(name, &subjects, settings).await;
    }
    let asked = [
        ("queue", "queue"),
        ("newest", "newest"),
        ("silent", "silent"),
        ("log", "elsewhere"),
        ("another", "log"),
    ];
    for (stream, prefix) in asked {
        let refused = NatsBackend::open(config(&broker, "workflow", stream, prefix)).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{stream}: {refused}");
    }
}
