//! Streams of services that are there already: their entries are read and written in their form.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fanfare_conformance::broker::Broker;
use fanfare_core::backend::Backend;
use fanfare_core::dead_letter::DeadBody;
use fanfare_core::error::ErrorKind;
use fanfare_core::event::Event;
use fanfare_redis::{EntryForm, Form, RedisBackend, RedisConfig};

use super::stage::{
    ack, client, command, config, counts, dead_letters, drain, events, publish, publish_surely,
    server, subscribe, within,
};

/// What the services of a job lifecycle write, as they write it.
pub(crate) const THEIRS: [&str; 3] = [
    concat!(
        r#"{"event_id":"7f3c1b52-9a61-4c7e-8d0f-2b5e6a9c4d11","event_type":"SOURCE_CREATED","#,
        r#""source_id":"0d9e8f7a-6b5c-4d3e-9f2a-1b0c9d8e7f6a","timestamp":"2026-11-20T10:00:00Z","#,
        r#""payload":{"name":"News","url":"https://example.com","rate_limit":10,"max_depth":2,"#,
        r#""enabled":true,"priority":"high"}}"#
    ),
    concat!(
        r#"{"event_id":"7f3c1b52-9a61-4c7e-8d0f-2b5e6a9c4d12","event_type":"SOURCE_UPDATED","#,
        r#""source_id":"0d9e8f7a-6b5c-4d3e-9f2a-1b0c9d8e7f6a","timestamp":"2026-11-20T10:00:01Z","#,
        r#""payload":{"changed_fields":[],"previous":null,"current":{"rate_limit":"10/s"}}}"#
    ),
    concat!(
        r#"{"event_id":"7f3c1b52-9a61-4c7e-8d0f-2b5e6a9c4d13","event_type":"SOURCE_DELETED","#,
        r#""source_id":"0d9e8f7a-6b5c-4d3e-9f2a-1b0c9d8e7f6a","timestamp":"2026-11-20T10:00:02Z","#,
        r#""payload":{"name":"","deletion_reason":"user_requested"}}"#
    ),
];

pub(crate) fn lifecycle(broker: &Broker) -> RedisConfig {
    RedisConfig {
        stream: "source-events".into(),
        form: Form::Entries(EntryForm::preset("job-lifecycle").unwrap()),
        ..config(broker.address())
    }
}

/// Publishes as the services do.
pub(crate) async fn they_publish(broker: &Broker, json: &str) -> String {
    let mut add = redis::cmd("XADD");
    add.arg("source-events").arg("*").arg("event").arg(json);
    add.query_async(&mut client(broker).await).await.unwrap()
}

async fn opened() -> (Broker, Arc<RedisBackend>) {
    let broker = server().await;
    let backend = RedisBackend::open(lifecycle(&broker)).await.unwrap();
    (broker, backend)
}

#[tokio::test]
async fn what_existing_publishers_write_is_delivered_untouched() {
    let (broker, backend) = opened().await;
    let consumer = subscribe(&backend, Duration::from_secs(30)).await;
    for json in THEIRS {
        they_publish(&broker, json).await;
    }
    let mut came: Vec<Event> = Vec::new();
    while came.len() < 3 {
        let more = within(consumer.receive(10, Duration::from_secs(5))).await;
        let more = more.unwrap();
        ack(&consumer, &more).await.unwrap();
        came.extend(more.into_iter().map(|delivery| delivery.event));
    }
    let types: Vec<_> = came
        .iter()
        .map(|event| event.event_type().as_str())
        .collect();
    assert_eq!(
        types,
        ["SOURCE_CREATED", "SOURCE_UPDATED", "SOURCE_DELETED"]
    );
    for (event, json) in came.iter().zip(THEIRS) {
        assert_eq!(event.key(), Some("0d9e8f7a-6b5c-4d3e-9f2a-1b0c9d8e7f6a"));
        let payload = std::str::from_utf8(event.bytes()).unwrap();
        assert!(
            json.contains(&format!(r#""payload":{payload}}}"#)),
            "{payload}"
        );
    }
    assert_eq!(counts(&backend).await.acknowledged, 3);
}

#[tokio::test]
async fn what_we_publish_stands_there_as_they_would_write_it() {
    let (broker, backend) = opened().await;
    let consumer = subscribe(&backend, Duration::from_secs(30)).await;
    they_publish(&broker, THEIRS[0]).await;
    let came = within(consumer.receive(1, Duration::from_secs(5)))
        .await
        .unwrap();
    let ours = came[0]
        .event
        .to_builder()
        .id("e-2".parse().unwrap())
        .build()
        .unwrap();
    publish_surely(&backend, &ours).await;
    assert!(publish(&backend, &ours).await.unwrap().duplicate);
    let mut newest = redis::cmd("XREVRANGE");
    newest
        .arg("source-events")
        .arg("+")
        .arg("-")
        .arg("COUNT")
        .arg(1);
    let newest: Vec<(String, BTreeMap<String, String>)> = newest
        .query_async(&mut client(&broker).await)
        .await
        .unwrap();
    let expected = THEIRS[0].replace("7f3c1b52-9a61-4c7e-8d0f-2b5e6a9c4d11", "e-2");
    assert_eq!(
        newest[0].1,
        BTreeMap::from([("event".to_owned(), expected)])
    );
    let error = publish(&backend, &events(1)[0]).await.unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Invalid,
        "without what the form requires"
    );
    drain(&consumer, &[ours]).await;
    assert_eq!(backend.admin().stats().await.unwrap().events, 2);
}

#[tokio::test]
async fn what_cannot_be_read_becomes_a_dead_letter_and_blocks_nothing() {
    let (broker, backend) = opened().await;
    assert!(backend.capabilities().foreign_input);
    let consumer = subscribe(&backend, Duration::from_secs(30)).await;
    they_publish(&broker, "{\"event_id\":").await;
    command(&broker, &["XADD", "source-events", "*", "other", "field"]).await;
    they_publish(&broker, THEIRS[0]).await;
    let came = within(consumer.receive(10, Duration::from_secs(5)))
        .await
        .unwrap();
    assert_eq!(came.len(), 1);
    ack(&consumer, &came).await.unwrap();
    let letters = dead_letters(&backend).await;
    let raw = letters.iter().map(|letter| match &letter.body {
        DeadBody::Raw(bytes) => std::str::from_utf8(bytes).unwrap(),
        DeadBody::Event(_) => "an event",
    });
    assert_eq!(raw.collect::<Vec<_>>(), ["{\"event_id\":", "other field"]);
    let counts = counts(&backend).await;
    assert_eq!(
        (counts.published, counts.acknowledged, counts.dead),
        (3, 1, 2)
    );
}
