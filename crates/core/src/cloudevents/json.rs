//! Reading the CloudEvents JSON format, one event or a batch.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::attribute::{Form, Value};
use super::members::{Items, Members, utf8};
use super::{MAX_BATCH_EVENTS, payload};
use crate::error::Result;
use crate::event::{Event, EventBuilder};
use crate::event_type::EventType;

/// Reads one event in the CloudEvents JSON format. Text that is not JSON at all is a single
/// violation with an empty pointer.
pub fn from_json(json: &[u8]) -> Result<Event> {
    read(utf8(json)?, Form::CloudEvents)?.build()
}

/// Reads a CloudEvents JSON batch of at most [`MAX_BATCH_EVENTS`]. The outer error is about the
/// array; each item answers for itself, with pointers relative to the item.
pub fn from_json_batch(json: &[u8]) -> Result<Vec<Result<Event>>> {
    let items = read_batch(json, Form::CloudEvents)?;
    Ok(items
        .into_iter()
        .map(|item| item.and_then(EventBuilder::build))
        .collect())
}

/// Reads every item of an array in either form.
pub(super) fn read_batch(json: &[u8], form: Form) -> Result<Vec<Result<EventBuilder>>> {
    let items = Items::<MAX_BATCH_EVENTS>::parse(utf8(json)?)?;
    Ok(items
        .into_iter()
        .map(|item| read(item.get(), form))
        .collect())
}

/// Reads one object in either form; the builder that comes back holds no violation.
pub(super) fn read(json: &str, form: Form) -> Result<EventBuilder> {
    let members = Members::parse(json)?;
    let mut builder = Event::builder(EventType::stand_in());
    for name in &members.repeated {
        builder.violate(name, format!("{name} appears more than once"));
    }
    let mut payload = Payload::default();
    for (name, raw) in &members.list {
        if payload.take(name, raw) {
            continue;
        }
        match Value::read(raw) {
            Ok(Some(value)) => {
                if let ("datacontenttype", Value::Text(text)) = (&**name, &value) {
                    payload.content_type = Some(text.clone());
                }
                builder = form.set(builder, name, value);
            }
            Ok(None) => {}
            Err(detail) => builder.violate(name, format!("{name} {detail}")),
        }
    }
    form.require(&mut builder, |name| {
        members
            .list
            .iter()
            .any(|(n, raw)| *n == name && raw.get() != "null")
    });
    payload.put_into(builder).check()
}

/// The members that hold data, read last because the media type says how.
#[derive(Default)]
struct Payload<'a> {
    content_type: Option<Cow<'a, str>>,
    data: Option<&'a RawValue>,
    base64: Option<&'a RawValue>,
}

impl<'a> Payload<'a> {
    fn take(&mut self, name: &str, raw: &'a RawValue) -> bool {
        match name {
            "data" => self.data = Some(raw),
            "data_base64" => self.base64 = Some(raw).filter(|raw| raw.get() != "null"),
            _ => return false,
        }
        true
    }

    fn put_into(self, mut builder: EventBuilder) -> EventBuilder {
        let (name, data) = match (self.data, self.base64) {
            (None, None) => return builder,
            (Some(_), Some(_)) => {
                builder.violate("data_base64", "data and data_base64 exclude each other");
                return builder;
            }
            (Some(raw), None) => (
                "data",
                payload::from_member(raw, self.content_type.as_deref()),
            ),
            (None, Some(raw)) => (
                "data_base64",
                match Value::read(raw) {
                    Ok(Some(Value::Text(text))) => payload::from_base64(&text),
                    _ => Err("data_base64 must be a string".into()),
                },
            ),
        };
        match data {
            Ok(data) => builder.data(data),
            Err(detail) => {
                builder.violate(name, detail);
                builder
            }
        }
    }
}
