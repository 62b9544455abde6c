//! From a foreign JSON form to an event. Members that the codec does not name are skipped, as the
//! services themselves do.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{Absent, Codec, Field, Kind, Member, Place, SEGMENTS, Shape, TIME_TEXT, TRACE_ID};
use crate::cloudevents::attribute::{Form, Value};
use crate::cloudevents::members::{Members, text, utf8};
use crate::cloudevents::{media_type, payload};
use crate::error::{Error, Result};
use crate::event::{Event, EventBuilder, extension};
use crate::event_type::EventType;
use crate::timestamp::Timestamp;

impl Codec {
    /// Reads an event; every violation is named at once, with the pointer to its member. `address`
    /// is the event type that the transport tells (a routing key or channel), for forms without
    /// one.
    pub fn read(&self, json: &[u8], address: Option<&EventType>) -> Result<Event> {
        let text = utf8(json)?;
        let mut reading = Reading {
            builder: Event::builder(EventType::stand_in()).source(self.source.clone()),
            has_type: address.is_some(),
            segments: [None, None, None],
        };
        if let Some(address) = address {
            reading.builder = reading.builder.event_type(address.clone());
        }
        reading.object(&self.members, text, "")?;
        reading.finish()
    }
}

struct Reading<'a> {
    builder: EventBuilder,
    has_type: bool,
    segments: [Option<Cow<'a, str>>; 3],
}

impl<'a> Reading<'a> {
    fn object(&mut self, known: &[Member], json: &'a str, parent: &str) -> Result<()> {
        let members = Members::parse(json)?;
        for name in &members.repeated {
            let pointer = format!("{parent}/{name}");
            self.refuse(&pointer, format!("{name} appears more than once"));
        }
        for member in known {
            let found = members.list.iter().find(|(name, _)| *name == member.name);
            let pointer = format!("{parent}/{}", member.name);
            match (&member.kind, found) {
                (Kind::Object(inner), Some((_, raw))) if raw.get() != "null" => {
                    if self.object(inner, raw.get(), &pointer).is_err() {
                        self.refuse(&pointer, format!("{} must be an object", member.name));
                    }
                }
                (Kind::Object(inner), _) => self.object(inner, "{}", &pointer)?,
                (Kind::Field(field), Some((_, raw))) => {
                    self.field(field, &member.name, raw, &pointer);
                }
                (Kind::Field(field), None) => self.absent(field, &member.name, &pointer),
            }
        }
        Ok(())
    }

    fn field(&mut self, field: &Field, name: &str, raw: &'a RawValue, pointer: &str) {
        if field.place == Place::Data {
            return match payload::from_member(raw, Some(media_type::JSON)) {
                Ok(data) => {
                    self.change(|b| b.content_type(media_type::JSON).data(data));
                }
                Err(detail) => self.refuse(pointer, detail),
            };
        }
        if field.is_nothing(raw.get()) {
            return self.absent(field, name, pointer);
        }
        let before = self.builder.violations();
        match value(field.shape, raw) {
            Ok(Some(value)) => self.put(&field.place, value),
            Ok(None) => self.absent(field, name, pointer),
            Err(detail) => self.refuse(pointer, format!("{name} {detail}")),
        }
        self.builder.point_since(before, pointer);
    }

    fn absent(&mut self, field: &Field, name: &str, pointer: &str) {
        let told = field.place == Place::Type && self.has_type;
        if field.absent == Absent::Refuse && !told {
            self.refuse(pointer, format!("{name} is missing"));
            // Noted here, so that it is not noted again at the end.
            self.has_type |= field.place == Place::Type;
        }
    }

    fn put(&mut self, place: &Place, value: Value<'a>) {
        let name = match place {
            Place::Id => "id",
            Place::Type => "type",
            Place::Source => "source",
            Place::Subject | Place::Entity => "subject",
            Place::Time => "time",
            Place::Trace => TRACE_ID,
            Place::Extension(name) => name,
            Place::Segment(at) => {
                if let (Value::Text(text), Some(slot)) = (value, self.segments.get_mut(*at)) {
                    *slot = Some(text);
                }
                return;
            }
            Place::Data => return,
        };
        self.has_type |= *place == Place::Type;
        if let (Place::Entity, Value::Text(text)) = (place, &value)
            && !text.is_empty()
        {
            let key = text.clone();
            self.change(|b| b.extension(extension::KEY, key.into_owned()));
        }
        if let (Place::Time, Value::Text(text)) = (place, &value)
            && text
                .parse()
                .is_ok_and(|time: Timestamp| time.to_string() != *text)
        {
            let said = text.clone();
            self.change(|b| b.extension(TIME_TEXT, said.into_owned()));
        }
        self.change(|b| Form::CloudEvents.set(b, name, value));
    }

    fn finish(mut self) -> Result<Event> {
        if !self.has_type {
            let detail = "neither the message nor its address says the event type";
            self.refuse("/type", detail.to_owned());
        }
        let event = self.builder.build()?;
        let mut builder = None;
        for (at, (name, said)) in SEGMENTS.iter().zip(self.segments).enumerate() {
            if let Some(said) = said
                && segment(event.event_type(), at) != Some(&said)
            {
                let changing: EventBuilder = builder.unwrap_or_else(|| event.to_builder());
                builder = Some(changing.extension(name, said.into_owned()));
            }
        }
        builder.map_or(Ok(event), EventBuilder::build)
    }

    fn change(&mut self, change: impl FnOnce(EventBuilder) -> EventBuilder) {
        let blank = Event::builder(EventType::stand_in());
        self.builder = change(std::mem::replace(&mut self.builder, blank));
    }

    fn refuse(&mut self, pointer: &str, detail: String) {
        let before = self.builder.violations();
        self.builder.violate("", detail);
        self.builder.point_since(before, pointer);
    }
}

/// The segment that a three-part event type shows on its own.
pub(super) fn segment(event_type: &EventType, at: usize) -> Option<&str> {
    if event_type.segments().count() == SEGMENTS.len() {
        event_type.segments().nth(at)
    } else {
        None
    }
}

/// The value of a member; none where it is null or an empty text.
fn value(shape: Shape, raw: &RawValue) -> Result<Option<Value<'_>>, String> {
    let json = raw.get();
    if json == "null" {
        return Ok(None);
    }
    match shape {
        Shape::Json => Ok(Some(Value::Text(Cow::Borrowed(json)))),
        Shape::Integer => integer(json).map(Some),
        Shape::Text | Shape::Time => match text(json) {
            Some(text) if text.is_empty() => Ok(None),
            Some(text) => {
                if shape == Shape::Time {
                    let time = text.parse::<Timestamp>();
                    time.map_err(|e: Error| e.message().to_owned())?;
                }
                Ok(Some(Value::Text(text)))
            }
            None => Err("must be a string".into()),
        },
    }
}

/// A number of at most 64 bits, kept as text where 32 do not hold it.
fn integer(json: &str) -> Result<Value<'_>, String> {
    if let Ok(small) = json.parse() {
        return Ok(Value::Integer(small));
    }
    match json.parse::<i64>() {
        Ok(large) => Ok(Value::Text(large.to_string().into())),
        Err(_) => Err("must be a whole number of at most 64 bits".into()),
    }
}
