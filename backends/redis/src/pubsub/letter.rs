//! A dead letter as an item of the list: `{id, handler, event, error, timestamp, attempts, ..}`, where
//! `event` is what stood in the message and `handler` the subscription. Items that others wrote with
//! `event`, `error` and `timestamp` alone are read too.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use fanfare_core::cloudevents;
use fanfare_core::data::{Data, DataKind};
use fanfare_core::dead_letter::{DeadBody, DeadLetter, fingerprint};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::event_type::EventType;
use fanfare_core::id::EventId;
use fanfare_core::position::Position;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::message;
use crate::form::Form;
use crate::frame;

/// The subscription of letters whose item names none.
const NOBODY: &str = "unknown";

#[derive(Serialize, Deserialize)]
struct Item {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    handler: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event: Option<Box<RawValue>>,
    /// The channel's event type: the event's JSON need not say it.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    /// The message itself where it is a frame of ours: it keeps every byte, which JSON does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frame_base64: Option<String>,
    /// Input that is no event, as text where it is text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw_base64: Option<String>,
    error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default)]
    attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first_failure: Option<Timestamp>,
    timestamp: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    original: Option<Original>,
}

/// Data before an edit.
#[derive(Serialize, Deserialize)]
struct Original {
    kind: u8,
    base64: String,
}

pub(super) fn write(form: &Form, letter: &DeadLetter) -> Result<Vec<u8>> {
    let event = letter.body.event();
    let json = event.map(|event| write_event(form, event)).transpose()?;
    let (raw, raw_base64) = match &letter.body {
        DeadBody::Event(_) => (None, None),
        DeadBody::Raw(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => (Some(text.to_owned()), None),
            Err(_) => (None, Some(BASE64.encode(bytes))),
        },
    };
    let frame = match form {
        Form::Frames => event.map(|event| message::write(form, event)).transpose()?,
        Form::Entries(_) => None,
    };
    let item = Item {
        id: Some(letter.id.clone()),
        handler: Some(letter.subscription.to_string()),
        event: json,
        event_type: event.map(|event| event.event_type().to_string()),
        frame_base64: frame.map(|frame| BASE64.encode(frame)),
        raw,
        raw_base64,
        error: letter.error.clone(),
        reason: Some(letter.reason.clone()),
        attempts: letter.attempts,
        first_failure: Some(letter.first_failure),
        timestamp: letter.last_failure,
        original: letter.original.as_ref().map(|data| Original {
            kind: data.kind() as u8,
            base64: BASE64.encode(data.bytes()),
        }),
    };
    serde_json::to_vec(&item).map_err(|error| not_written().because(error))
}

fn write_event(form: &Form, event: &Event) -> Result<Box<RawValue>> {
    let json = match form {
        Form::Frames => cloudevents::to_json(event),
        Form::Entries(form) => form.write_json(event)?,
    };
    let text = String::from_utf8(json).map_err(|error| not_written().because(error))?;
    RawValue::from_string(text).map_err(|error| not_written().because(error))
}

fn not_written() -> Error {
    Error::new(ErrorKind::Internal, "a dead letter has no JSON form")
}

/// None where the item is nobody's dead letter.
pub(super) fn read(form: &Form, bytes: &[u8]) -> Option<DeadLetter> {
    let item: Item = serde_json::from_slice(bytes).ok()?;
    let reason = item.reason.clone().unwrap_or_else(|| "max_attempts".into());
    let subscription = item.handler.as_deref().unwrap_or(NOBODY);
    let subscription = SubscriptionName::parse(subscription).or_else(|_| NOBODY.parse());
    let text = || std::str::from_utf8(bytes).unwrap_or_default();
    Some(DeadLetter {
        id: match &item.id {
            Some(id) => id.clone(),
            None => EventId::derived(&[text()]).to_string(),
        },
        subscription: subscription.ok()?,
        position: Position::START,
        body: body(form, &item)?,
        original: item.original.as_ref().and_then(original),
        fingerprint: fingerprint(&reason, &item.error),
        reason,
        attempts: item.attempts,
        first_failure: item.first_failure.unwrap_or(item.timestamp),
        last_failure: item.timestamp,
        error: item.error,
    })
}

fn body(form: &Form, item: &Item) -> Option<DeadBody> {
    if let Some(raw) = &item.raw {
        return Some(DeadBody::Raw(Bytes::from(raw.clone().into_bytes())));
    }
    if let Some(raw) = &item.raw_base64 {
        return Some(DeadBody::Raw(BASE64.decode(raw).ok()?.into()));
    }
    if let Some(frame) = &item.frame_base64 {
        let event = frame::decode(BASE64.decode(frame).ok()?.into())
            .ok()?
            .pop()?;
        return Some(DeadBody::Event(event));
    }
    let json = item.event.as_ref()?.get().as_bytes();
    let told = item.event_type.as_deref().map(EventType::parse);
    let told = told.and_then(std::result::Result::ok);
    let event = match form {
        Form::Frames => cloudevents::from_json(json),
        Form::Entries(form) => form.read_json(json, told.as_ref()),
    };
    Some(match event {
        Ok(event) => DeadBody::Event(event),
        Err(_) => DeadBody::Raw(Bytes::copy_from_slice(json)),
    })
}

fn original(there: &Original) -> Option<Data> {
    let kinds = [DataKind::Json, DataKind::Text, DataKind::Binary];
    let kind = kinds.into_iter().find(|known| *known as u8 == there.kind)?;
    Some(Data::from_parts(kind, BASE64.decode(&there.base64).ok()?))
}
