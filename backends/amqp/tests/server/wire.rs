//! The exchange and the queue of a service that is there already: a plain client writes what the service
//! writes, byte for byte as the fixture has it, and finds the same bytes when we publish the event.

use std::time::Duration;

use fanfare_amqp::{AmqpBackend, AmqpConfig};
use fanfare_conformance::broker::Broker;
use fanfare_core::backend::Backend;
use fanfare_core::codec::WireForm;
use fanfare_core::dead_letter::{DeadBody, DeadLetterFilter};
use fanfare_core::event::Event;
use lapin::options::{
    BasicGetOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, ExchangeKind};
use serde_json::Value;

use super::own::{config, join, name, server, stranger, take};

const FIXTURE: &str =
    include_str!("../../../../crates/core/tests/fixtures/codec-identity-mail.jsonl");
const EXCHANGE: &str = "smap.events";
/// What the mail consumer reads; everything is bound to it here, the fixture has more than mail.
const QUEUE: &str = "smtp_send_email_v2";
/// Where the service's own client sees everything.
const SEEN: &str = "seen";

/// The service's client, which has declared what it uses.
struct Theirs(Channel);

impl Theirs {
    async fn declare(channel: Channel) -> Self {
        let durable = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let (kind, none) = (ExchangeKind::Topic, FieldTable::default);
        let declared = channel.exchange_declare(EXCHANGE.into(), kind, durable, none());
        declared.await.unwrap();
        for queue in [QUEUE, SEEN] {
            let durable = QueueDeclareOptions::durable();
            let declared = channel.queue_declare(queue.into(), durable, none());
            declared.await.unwrap();
            let options = QueueBindOptions::default();
            let bound =
                channel.queue_bind(queue.into(), EXCHANGE.into(), "#".into(), options, none());
            bound.await.unwrap();
        }
        Self(channel)
    }

    async fn write(&self, key: &str, body: &str) {
        let (options, properties) = Default::default();
        let (exchange, key) = (EXCHANGE.into(), key.into());
        let sent = self
            .0
            .basic_publish(exchange, key, options, body.as_bytes(), properties);
        sent.await.unwrap();
    }

    /// Key, body and properties of the next message.
    async fn read(&self) -> (String, String, BasicProperties) {
        loop {
            let options = BasicGetOptions { no_ack: true };
            let got = self.0.basic_get(SEEN.into(), options).await.unwrap();
            let Some(got) = got else {
                tokio::task::yield_now().await;
                continue;
            };
            let message = got.delivery;
            let body = String::from_utf8(message.data).unwrap();
            return (message.routing_key.to_string(), body, message.properties);
        }
    }
}

/// The routing key of each: the JSON does not say the type.
fn key(json: &str) -> String {
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
    told.to_owned()
}

fn beside(broker: &Broker) -> AmqpConfig {
    AmqpConfig {
        exchange: Some(EXCHANGE.into()),
        queue: Some((name(), QUEUE.into())),
        form: WireForm::by_name("identity-mail"),
        ..config(broker, "mailer")
    }
}

#[tokio::test]
async fn what_the_service_wrote_is_what_it_finds_when_we_publish_it() {
    let broker = server().await;
    let (_connection, channel) = stranger(&broker).await;
    let theirs = Theirs::declare(channel).await;
    for line in FIXTURE.lines() {
        theirs.write(&key(line), line).await;
    }
    let backend = AmqpBackend::open(beside(&broker)).await.unwrap();
    let consumer = join(&backend).await;
    let count = FIXTURE.lines().count();
    let came = take(&*consumer, count).await;
    let events: Vec<Event> = came.into_iter().map(|one| one.event).collect();
    for answer in backend.publish(&events).await.unwrap() {
        answer.unwrap();
    }
    let all = FIXTURE.lines().chain(FIXTURE.lines());
    for (at, line) in all.enumerate() {
        let (routed, body, properties) = theirs.read().await;
        assert_eq!((routed, body), (key(line), line.to_owned()), "{at}");
        if at >= count {
            // Ours outlives the server, and says what it is.
            let kind = properties.content_type().as_ref().unwrap().as_str();
            assert_eq!(
                (kind, *properties.delivery_mode()),
                ("application/json", Some(2))
            );
        }
    }
    // Its own queue has them once more, and nothing was bound to it.
    let again = take(&*consumer, count).await;
    let again: Vec<Event> = again.into_iter().map(|one| one.event).collect();
    assert_eq!(again, events);
    backend.close().await.unwrap();
}

#[tokio::test]
async fn what_is_no_such_event_becomes_a_dead_letter_and_leaves_their_queue() {
    let broker = server().await;
    let (_connection, channel) = stranger(&broker).await;
    let theirs = Theirs::declare(channel).await;
    let good = FIXTURE.lines().next().unwrap();
    let bad = ["{\"event_id\":", "{\"payload\":{}}"];
    for body in bad {
        theirs.write("email.verification.requested", body).await;
    }
    theirs.write("email.verification.requested", good).await;
    let backend = AmqpBackend::open(beside(&broker)).await.unwrap();
    let consumer = join(&backend).await;
    take(&*consumer, 1).await;
    let everything = DeadLetterFilter::default();
    let letters = backend.dead_letters().list(&everything, None, 10).await;
    let letters = letters.unwrap().items;
    let raw = letters.iter().map(|letter| match &letter.body {
        DeadBody::Raw(bytes) => std::str::from_utf8(bytes).unwrap(),
        DeadBody::Event(_) => "an event",
    });
    let mut raw: Vec<_> = raw.collect();
    raw.sort_unstable();
    assert_eq!(raw, bad);
    let nothing = consumer.receive(1, Duration::ZERO).await.unwrap();
    assert!(nothing.is_empty());
    backend.close().await.unwrap();
}
