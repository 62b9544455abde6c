//! From an event to a foreign JSON form.

use std::borrow::Cow;

use super::read::segment;
use super::{Absent, Codec, Field, Kind, Member, Place, SEGMENTS, Shape, TIME_TEXT, TRACE_ID};
use crate::data::DataKind;
use crate::error::{Error, Result, Violation};
use crate::event::{Event, ExtensionValue, extension};
use crate::timestamp::Timestamp;

impl Codec {
    /// Writes an event; refuses one that lacks what the form requires, or whose data are not JSON.
    pub fn write(&self, event: &Event) -> Result<Vec<u8>> {
        let mut writing = Writing {
            event,
            out: Vec::with_capacity(event.size() + 256),
            violations: Vec::new(),
        };
        writing.object(&self.members, "");
        if writing.violations.is_empty() {
            Ok(writing.out)
        } else {
            Err(Error::violating(writing.violations))
        }
    }
}

struct Writing<'a> {
    event: &'a Event,
    out: Vec<u8>,
    violations: Vec<Violation>,
}

impl Writing<'_> {
    fn object(&mut self, members: &[Member], parent: &str) {
        self.out.push(b'{');
        let start = self.out.len();
        for member in members {
            let before = self.out.len();
            if before > start {
                self.out.push(b',');
            }
            self.string(&member.name);
            self.out.push(b':');
            let pointer = format!("{parent}/{}", member.name);
            let written = match &member.kind {
                Kind::Object(inner) => {
                    self.object(inner, &pointer);
                    true
                }
                Kind::Field(field) => self.field(field, &pointer),
            };
            if !written {
                self.out.truncate(before);
            }
        }
        self.out.push(b'}');
    }

    /// Writes the value and answers true, or leaves it to the caller to take the name back.
    fn field(&mut self, field: &Field, pointer: &str) -> bool {
        if field.place == Place::Data {
            return self.data(field, pointer);
        }
        let Some(text) = text(self.event, &field.place) else {
            return self.absent(field, pointer);
        };
        if field.is_nothing(&text) {
            return self.absent(field, pointer);
        }
        match field.shape {
            Shape::Text | Shape::Time => self.string(&text),
            Shape::Integer if text.parse::<i64>().is_err() => {
                self.refuse(
                    pointer,
                    format!("`{}` is not a whole number", text.escape_debug()),
                );
            }
            Shape::Json if serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() => {
                self.refuse(pointer, "is not JSON".to_owned());
            }
            Shape::Integer | Shape::Json => self.out.extend_from_slice(text.as_bytes()),
        }
        true
    }

    fn data(&mut self, field: &Field, pointer: &str) -> bool {
        match self.event.data() {
            Some(data) if data.kind() == DataKind::Json => {
                self.out.extend_from_slice(data.bytes());
                true
            }
            Some(_) => {
                self.refuse(
                    pointer,
                    "the data are not JSON, this form has no place for them".into(),
                );
                true
            }
            None => self.absent(field, pointer),
        }
    }

    fn absent(&mut self, field: &Field, pointer: &str) -> bool {
        match field.absent {
            Absent::Omit | Absent::OmitEmpty => return false,
            Absent::Null => self.out.extend_from_slice(b"null"),
            Absent::Text(text) => self.string(text),
            Absent::Refuse => self.refuse(pointer, format!("{pointer} has nothing to show")),
        }
        true
    }

    fn string(&mut self, text: &str) {
        // Neither writing into a vector nor serialising a string can fail.
        let _ = serde_json::to_writer(&mut self.out, text);
    }

    fn refuse(&mut self, pointer: &str, detail: String) {
        self.violations.push(Violation {
            pointer: pointer.to_owned(),
            detail,
        });
    }
}

/// What stands in a place, as text.
fn text<'a>(event: &'a Event, place: &Place) -> Option<Cow<'a, str>> {
    let extension = |name: &str| {
        Some(match event.extension(name)? {
            ExtensionValue::String(text) => Cow::Borrowed(&**text),
            other => Cow::Owned(other.to_string()),
        })
    };
    match place {
        Place::Id => Some(event.id().to_string().into()),
        Place::Type => Some(event.event_type().as_str().into()),
        Place::Source => Some((&**event.source()).into()),
        Place::Entity => event.key().or(event.subject()).map(Cow::Borrowed),
        Place::Subject => event.subject().map(Cow::Borrowed),
        Place::Time => event.time().map(|time| time_text(event, time)),
        Place::Extension(name) => extension(name),
        Place::Trace => extension(TRACE_ID).or_else(|| {
            let parent = event.extension_str(extension::TRACEPARENT)?;
            parent.split('-').nth(1).map(Cow::Borrowed)
        }),
        Place::Segment(at) => SEGMENTS
            .get(*at)
            .and_then(|name| extension(name))
            .or_else(|| segment(event.event_type(), *at).map(Cow::Borrowed)),
        Place::Data => None,
    }
}

/// The event's time as it was written, while that is still its time.
fn time_text(event: &Event, time: Timestamp) -> Cow<'_, str> {
    let said = event.extension_str(TIME_TEXT);
    match said.filter(|said| said.parse().is_ok_and(|said: Timestamp| said == time)) {
        Some(said) => said.into(),
        None => time.to_string().into(),
    }
}
