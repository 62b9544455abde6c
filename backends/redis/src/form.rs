//! How events stand in stream entries: in frames of our own, or one event per entry in the form of
//! a service that is there already. Frames are [`crate::frame`]'s.

use bytes::Bytes;
use fanfare_core::codec::{Codec, WireForm};
use fanfare_core::data::{Data, DataKind};
use fanfare_core::error::Result;
use fanfare_core::event::{Event, extension};
use fanfare_core::event_type::EventType;

use crate::frame::{self, Slot};

/// Where data stand whose every byte counts.
const DATA: &[u8] = b"data";

/// The form of a stream's entries.
#[derive(Debug, Clone, Default)]
pub enum Form {
    /// Ours: the events of one flush in one entry.
    #[default]
    Frames,
    /// One event per entry, in a form that others read and write too. Nothing is ever removed from
    /// such a stream: others may still need it.
    Entries(EntryForm),
}

/// One event per entry: its JSON in one field, and for some services attributes in others. What a
/// form has no place for is not kept.
#[derive(Debug, Clone)]
pub struct EntryForm {
    json: WireForm,
    field: String,
    beside: Vec<&'static str>,
}

impl EntryForm {
    /// The event's JSON in this field.
    pub fn new(codec: Codec, field: impl Into<String>) -> Self {
        Self {
            json: WireForm::Mapped(codec),
            field: field.into(),
            beside: Vec::new(),
        }
    }

    /// `cloudevents`, which keeps everything, or a [preset](fanfare_core::codec::presets): its JSON
    /// in the field `event`.
    pub fn preset(name: &str) -> Option<Self> {
        let json = WireForm::by_name(name)?;
        let beside = match name {
            "crud-audit" => vec!["id", "type", "source", "status", "instance_id"],
            // Its JSON does not say the type.
            "identity-mail" => vec!["type"],
            _ => Vec::new(),
        };
        Some(Self {
            json,
            field: "event".into(),
            beside,
        })
    }

    /// Names and values of the entry of an event.
    fn write(&self, event: &Event) -> Result<Vec<Vec<u8>>> {
        let mut entry = vec![self.field.clone().into_bytes(), self.write_json(event)?];
        if matches!(self.json, WireForm::CloudEvents)
            && let Some(data) = event.data().filter(|data| is_padded(data))
        {
            entry.extend([DATA.to_vec(), data.bytes().to_vec()]);
        }
        for name in &self.beside {
            let value = attribute(event, name).into_bytes();
            entry.extend([name.as_bytes().to_vec(), value]);
        }
        Ok(entry)
    }

    /// The event's JSON alone.
    pub(crate) fn write_json(&self, event: &Event) -> Result<Vec<u8>> {
        self.json.write(event)
    }

    fn read(&self, json: &[u8], entry: &[Vec<u8>]) -> Result<Event> {
        let told = value(entry, b"type").and_then(|told| std::str::from_utf8(told).ok());
        let told = told.and_then(|told| EventType::parse(told).ok());
        let event = self.read_json(json, told.as_ref())?;
        if matches!(self.json, WireForm::Mapped(_)) {
            return Ok(event);
        }
        let padded = value(entry, DATA).map(|data| Data::json(data.clone()));
        match padded.filter(is_padded) {
            Some(data) => event.to_builder().data(data).build(),
            None => Ok(event),
        }
    }

    /// The event of its JSON alone, and of the type that stood beside it.
    pub(crate) fn read_json(&self, json: &[u8], told: Option<&EventType>) -> Result<Event> {
        self.json.read(json, told)
    }
}

/// What stands beside the JSON: always something, for readers that count on it.
fn attribute(event: &Event, name: &str) -> String {
    let shown = |name| event.extension_str(name);
    match name {
        "id" => event.id().to_string(),
        "type" => event.event_type().as_str().to_owned(),
        "source" => event.source().to_string(),
        "status" => shown("status").unwrap_or("pending").to_owned(),
        _ => shown(extension::INSTANCE_ID).unwrap_or_default().to_owned(),
    }
}

/// Whether blanks stand around it, which JSON in JSON does not keep.
fn is_padded(data: &Data) -> bool {
    data.kind() == DataKind::Json && data.bytes().trim_ascii() != &data.bytes()[..]
}

fn value<'a>(entry: &'a [Vec<u8>], field: &[u8]) -> Option<&'a Vec<u8>> {
    entry.chunks_exact(2).find_map(|pair| match pair {
        [name, value] if name == field => Some(value),
        _ => None,
    })
}

impl Form {
    /// Whether each event is an entry of its own, on a stream that is not only ours.
    pub(crate) fn is_foreign(&self) -> bool {
        matches!(self, Self::Entries(_))
    }

    /// The entry of an event, where each event has its own.
    pub(crate) fn entry(&self, event: &Event) -> Result<Option<Vec<Vec<u8>>>> {
        match self {
            Self::Frames => Ok(None),
            Self::Entries(form) => form.write(event).map(Some),
        }
    }

    /// The events of an entry, and how many bytes they take there.
    pub(crate) fn read(&self, entry: &[Vec<u8>]) -> (Vec<Slot>, usize) {
        let field: &[u8] = match self {
            Self::Frames => b"f",
            Self::Entries(form) => form.field.as_bytes(),
        };
        // Without its field it is read as what it is: not an event.
        let bytes = match value(entry, field) {
            Some(value) => Bytes::from(value.clone()),
            None => entry.join(&b' ').into(),
        };
        let size = bytes.len();
        let events = match self {
            Self::Frames => frame::decode(bytes.clone()),
            Self::Entries(form) => form.read(&bytes, entry).map(|event| vec![event]),
        };
        match events {
            Ok(events) => (events.into_iter().map(Slot::Event).collect(), size),
            Err(_) => (vec![Slot::Raw(bytes)], size),
        }
    }
}
