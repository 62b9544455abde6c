//! How an event, and what we know of its delivery, stands in a message. Not how it gets there.

use std::sync::Arc;

use bytes::Bytes;
use fanfare_core::codec::WireForm;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::event_type::EventType;
use fanfare_core::id::EventId;
use fanfare_core::position::Position;
use fanfare_core::record;
use fanfare_core::timestamp::Timestamp;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};

const ID: &str = "cloudEvents_id";
const SOURCE: &str = "cloudEvents_source";
const TYPE: &str = "cloudEvents_type";
/// Everything else but the data, in the form of [`record`].
const ATTRIBUTES: &str = "fanfare-attributes";
const POSITION: &str = "fanfare-position";
const ATTEMPTS: &str = "fanfare-attempts";
const FIRST_FAILURE: &str = "fanfare-first-failure";
/// What RabbitMQ writes into a message that it passes on: from which queue, why, how often, since when.
const DEATHS: &str = "x-death";
/// A dead letter's own story, as JSON.
pub(crate) const LETTER: &str = "fanfare-letter";
/// The message is kept by the broker when it restarts.
const PERSISTENT: u8 = 2;
/// What fits into a short string of AMQP.
const SHORT: usize = 255;

/// What travels with an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) position: Position,
    /// Attempts made so far.
    pub(crate) attempts: u32,
    pub(crate) first_failure: Option<Timestamp>,
}

pub(crate) fn properties(event: &Event, note: &Note) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(ID.into(), text(&event.id().to_string()));
    headers.insert(SOURCE.into(), text(event.source()));
    headers.insert(TYPE.into(), text(event.event_type().as_str()));
    let attributes = record::encode_attributes(event);
    headers.insert(ATTRIBUTES.into(), AMQPValue::ByteArray(attributes.into()));
    headers.insert(POSITION.into(), text(&note.position.to_string()));
    if note.attempts > 0 {
        let attempts = i64::from(note.attempts);
        headers.insert(ATTEMPTS.into(), AMQPValue::LongLongInt(attempts));
    }
    if let Some(first) = note.first_failure {
        let nanos = first.as_nanos().to_string();
        headers.insert(FIRST_FAILURE.into(), text(&nanos));
    }
    let mut properties = plain()
        .with_headers(headers)
        .with_type(event.event_type().as_str().into());
    if let Some(id) = short(&event.id().to_string()) {
        properties = properties.with_message_id(id);
    }
    match event.content_type().and_then(short) {
        Some(content_type) => properties.with_content_type(content_type),
        None => properties,
    }
}

/// What stands beside a message in somebody else's form: they may do without it.
pub(crate) fn beside(event: &Event, note: &Note) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(POSITION.into(), text(&note.position.to_string()));
    let properties = plain()
        .with_headers(headers)
        .with_content_type("application/json".into());
    match short(&event.id().to_string()) {
        Some(id) => properties.with_message_id(id),
        None => properties,
    }
}

/// The event of any message of the stream: ours, or in the form that it has with others.
pub(crate) fn read(message: &Delivery, form: Option<&WireForm>) -> Result<Event> {
    let ours = find(&message.properties, ATTRIBUTES).is_some();
    match form.filter(|_| !ours) {
        Some(form) => {
            let address = EventType::parse(message.routing_key.as_str()).ok();
            form.read(&message.data, address.as_ref())
        }
        None => event(&message.properties, message.data.clone()),
    }
}

/// Those of a message that outlives the broker.
pub(crate) fn plain() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(PERSISTENT)
}

pub(crate) fn note(properties: &BasicProperties) -> Option<Note> {
    let first = header(properties, FIRST_FAILURE).and_then(|nanos| nanos.parse().ok());
    Some(Note {
        position: header(properties, POSITION)?.parse().ok()?,
        attempts: match find(properties, ATTEMPTS) {
            Some(AMQPValue::LongLongInt(attempts)) => u32::try_from(*attempts).ok()?,
            _ => 0,
        },
        first_failure: first.map(Timestamp::from_nanos),
    })
}

/// How often the server passed it on because it was rejected in this queue, and when it did so first.
pub(crate) fn rejected(properties: &BasicProperties, queue: &str) -> Option<(u32, Timestamp)> {
    let Some(AMQPValue::FieldArray(deaths)) = find(properties, DEATHS) else {
        return None;
    };
    deaths.as_slice().iter().find_map(|death| {
        let AMQPValue::FieldTable(death) = death else {
            return None;
        };
        let of = |name: &str| death.inner().get(name);
        if of("queue") != Some(&text(queue)) || of("reason") != Some(&text("rejected")) {
            return None;
        }
        match (of("count")?, of("time")?) {
            (AMQPValue::LongLongInt(count), AMQPValue::Timestamp(first)) => {
                let millis = i64::try_from(*first).ok()?.checked_mul(1_000)?;
                Some((u32::try_from(*count).ok()?, Timestamp::from_millis(millis)))
            }
            _ => None,
        }
    })
}

/// The event of a message that we, or a member of ours, wrote.
pub(crate) fn event(properties: &BasicProperties, data: impl Into<Bytes>) -> Result<Event> {
    let missing = |what: &str| Error::new(ErrorKind::Corrupt, format!("no header `{what}`"));
    let required = |name| header(properties, name).ok_or_else(|| missing(name));
    let Some(AMQPValue::ByteArray(attributes)) = find(properties, ATTRIBUTES) else {
        return Err(missing(ATTRIBUTES));
    };
    record::decode(
        EventId::parse(required(ID)?)?,
        Arc::from(required(SOURCE)?),
        EventType::parse(required(TYPE)?)?,
        attributes.as_slice(),
        data,
    )
}

pub(crate) fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.as_bytes().to_vec().into())
}

pub(crate) fn header<'p>(properties: &'p BasicProperties, name: &str) -> Option<&'p str> {
    match find(properties, name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        _ => None,
    }
}

pub(crate) fn find<'p>(properties: &'p BasicProperties, name: &str) -> Option<&'p AMQPValue> {
    let headers = properties.headers().as_ref()?;
    let mut named = headers
        .inner()
        .iter()
        .filter(|(key, _)| key.as_str() == name);
    named.next().map(|(_, value)| value)
}

fn short(text: &str) -> Option<ShortString> {
    (text.len() <= SHORT).then(|| text.into())
}
