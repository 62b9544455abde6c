//! The compact form in which backends store an event's optional attributes beside its id, source,
//! type and data. Version 1 is frozen: `tests/fixtures/record-v1.hex` must decode forever.
//!
//! ```text
//! version 1 | flags | subject? | time? | content type? | schema? | count | (name, tag, value)*
//! ```
//! Numbers are LEB128 with the fewest bytes, signed ones zigzag; texts have their length before
//! them; extensions are ordered by name. There is one encoding of every value and no other.

use std::sync::Arc;

use bytes::Bytes;

use crate::cloudevents::media_type;
use crate::data::{Data, DataKind};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Attributes, Event, ExtensionValue, MAX_EXTENSIONS, is_extension_name};
use crate::event_type::EventType;
use crate::id::EventId;
use crate::timestamp::Timestamp;

const VERSION: u8 = 1;

/// The two low bits of the flags: 0 for no data, else the [`DataKind`].
const KIND: u8 = 0b11;
const SUBJECT: u8 = 1 << 2;
const TIME: u8 = 1 << 3;
const CONTENT_TYPE: u8 = 1 << 4;
/// The content type is `application/json`, which is not written out.
const JSON: u8 = 1 << 5;
const SCHEMA: u8 = 1 << 6;

const FALSE: u8 = 0;
const TRUE: u8 = 1;
const INTEGER: u8 = 2;
const STRING: u8 = 3;

/// Everything but id, source, type and data bytes.
pub fn encode_attributes(event: &Event) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    write_attributes(event, &mut out);
    out
}

/// Appends what [`encode_attributes`] answers.
pub fn write_attributes(event: &Event, out: &mut Vec<u8>) {
    let attributes = event.attributes();
    let mut flags = event.data().map_or(0, |data| data.kind() as u8);
    let mut flag = |bit: u8, set: bool| flags |= if set { bit } else { 0 };
    let is_json = attributes.content_type.as_deref() == Some(media_type::JSON);
    flag(SUBJECT, attributes.subject.is_some());
    flag(TIME, attributes.time.is_some());
    flag(CONTENT_TYPE, attributes.content_type.is_some() && !is_json);
    flag(JSON, is_json);
    flag(SCHEMA, attributes.schema.is_some());
    out.extend([VERSION, flags]);
    if let Some(subject) = &attributes.subject {
        write_text(subject, out);
    }
    if let Some(time) = attributes.time {
        write_signed(time.as_nanos(), out);
    }
    if let Some(content_type) = attributes.content_type.as_ref().filter(|_| !is_json) {
        write_text(content_type, out);
    }
    if let Some(schema) = &attributes.schema {
        write_text(schema, out);
    }
    write_number(attributes.extensions.len() as u128, out);
    for (name, value) in &attributes.extensions {
        write_text(name, out);
        match value {
            ExtensionValue::Boolean(false) => out.push(FALSE),
            ExtensionValue::Boolean(true) => out.push(TRUE),
            ExtensionValue::Integer(value) => {
                out.push(INTEGER);
                write_signed(i128::from(*value), out);
            }
            ExtensionValue::String(value) => {
                out.push(STRING);
                write_text(value, out);
            }
        }
    }
}

/// The event of stored parts. Malformed attributes are a [`Corrupt`](ErrorKind::Corrupt) error.
pub fn decode(
    id: EventId,
    source: Arc<str>,
    event_type: EventType,
    attributes: &[u8],
    data: impl Into<Bytes>,
) -> Result<Event> {
    let data = data.into();
    let (attributes, kind) = read_attributes(attributes)
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, "stored event attributes are malformed"))?;
    let data = match kind {
        Some(kind) => Some(Data::from_parts(kind, data)),
        None if data.is_empty() => None,
        None => {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "stored event has data but no kind of data",
            ));
        }
    };
    Ok(Event::from_parts(id, source, event_type, attributes, data))
}

fn read_attributes(bytes: &[u8]) -> Option<(Attributes, Option<DataKind>)> {
    let mut rest = Rest(bytes);
    if rest.byte()? != VERSION {
        return None;
    }
    let flags = rest.byte()?;
    let has = |bit: u8| flags & bit != 0;
    if has(1 << 7) || (has(JSON) && has(CONTENT_TYPE)) {
        return None;
    }
    let kind = match flags & KIND {
        1 => Some(DataKind::Json),
        2 => Some(DataKind::Text),
        3 => Some(DataKind::Binary),
        _ => None,
    };
    let mut attributes = Attributes::default();
    if has(SUBJECT) {
        attributes.subject = Some(rest.text()?.into());
    }
    if has(TIME) {
        attributes.time = Some(rest.time()?);
    }
    if has(CONTENT_TYPE) {
        let text = rest.text().filter(|text| *text != media_type::JSON)?;
        attributes.content_type = Some(text.into());
    }
    if has(JSON) {
        attributes.content_type = Some(media_type::JSON.into());
    }
    if has(SCHEMA) {
        attributes.schema = Some(rest.text()?.into());
    }
    attributes.extensions = rest.extensions()?;
    rest.0.is_empty().then_some((attributes, kind))
}

/// What is still to be read; every step answers none where it does not fit.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u128> {
        let mut value: u128 = 0;
        for shift in (0..u128::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u128::from(byte & 0x7F);
            // Bits pushed out at the top, or a needless last byte, are not ours.
            if (bits << shift) >> shift != bits || (byte == 0 && shift > 0) {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i128> {
        let folded = self.number()?;
        let half = i128::try_from(folded >> 1).ok()?;
        Some(if folded & 1 == 0 { half } else { !half })
    }

    fn time(&mut self) -> Option<Timestamp> {
        let nanos = self.signed()?;
        Some(Timestamp::from_nanos(nanos)).filter(|time| time.as_nanos() == nanos)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    fn extensions(&mut self) -> Option<Vec<(Arc<str>, ExtensionValue)>> {
        let count = usize::try_from(self.number()?).ok()?;
        if count > MAX_EXTENSIONS {
            return None;
        }
        let mut extensions: Vec<(Arc<str>, ExtensionValue)> = Vec::with_capacity(count);
        for _ in 0..count {
            let name = self.text().filter(|name| is_extension_name(name))?;
            let value = match self.byte()? {
                FALSE => ExtensionValue::Boolean(false),
                TRUE => ExtensionValue::Boolean(true),
                INTEGER => ExtensionValue::Integer(i32::try_from(self.signed()?).ok()?),
                STRING => ExtensionValue::String(self.text()?.into()),
                _ => return None,
            };
            if extensions.last().is_some_and(|(last, _)| **last >= *name) {
                return None;
            }
            extensions.push((name.into(), value));
        }
        Some(extensions)
    }
}

fn write_number(mut value: u128, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn write_signed(value: i128, out: &mut Vec<u8>) {
    write_number(((value << 1) ^ (value >> 127)).cast_unsigned(), out);
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    write_number(text.len() as u128, out);
    out.extend_from_slice(text.as_bytes());
}
