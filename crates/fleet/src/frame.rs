//! A frame: events as bytes, for dead letters and for logs of several events an entry. Version 1 is
//! frozen.
//!
//! ```text
//! version 1 | count | (id kind, id, source, type, attributes, data)*
//! ```
//! Numbers are LEB128; everything but a UUID id has its length before it.

use bytes::Bytes;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::event_type::EventType;
use fanfare_core::id::EventId;
use fanfare_core::record;
use uuid::Uuid;

const VERSION: u8 = 1;
const UUID: u8 = 0;
const TEXT: u8 = 1;

/// The events as one frame.
pub fn encode(events: &[Event]) -> Vec<u8> {
    encode_all(events.iter())
}

/// The same, of events that do not stand together.
pub fn encode_all<'a>(events: impl ExactSizeIterator<Item = &'a Event> + Clone) -> Vec<u8> {
    let size: usize = events.clone().map(|event| event.size() + 32).sum();
    let mut out = Vec::with_capacity(size + 8);
    out.push(VERSION);
    write_number(events.len(), &mut out);
    let mut attributes = Vec::new();
    for event in events {
        match event.id() {
            EventId::Uuid(id) => {
                out.push(UUID);
                out.extend_from_slice(id.as_bytes());
            }
            EventId::Text(id) => {
                out.push(TEXT);
                write_bytes(id.as_bytes(), &mut out);
            }
        }
        write_bytes(event.source().as_bytes(), &mut out);
        write_bytes(event.event_type().as_str().as_bytes(), &mut out);
        attributes.clear();
        record::write_attributes(event, &mut attributes);
        write_bytes(&attributes, &mut out);
        write_bytes(event.bytes(), &mut out);
    }
    out
}

/// The events of a frame; their data share its memory.
pub fn decode(frame: Bytes) -> Result<Vec<Event>> {
    let corrupt = || Error::new(ErrorKind::Corrupt, "a stream entry is no frame of events");
    let mut rest = Rest(frame);
    if rest.byte() != Some(VERSION) {
        return Err(corrupt());
    }
    let count = rest.number().ok_or_else(corrupt)?;
    let mut events = Vec::with_capacity(count.min(0xffff));
    for _ in 0..count {
        events.push(rest.event().ok_or_else(corrupt)??);
    }
    if rest.0.is_empty() {
        Ok(events)
    } else {
        Err(corrupt())
    }
}

struct Rest(Bytes);

impl Rest {
    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<usize> {
        let mut value = 0_usize;
        for shift in (0..=28).step_by(7) {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<Bytes> {
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let length = self.number()?;
        self.take(length)
    }

    fn event(&mut self) -> Option<Result<Event>> {
        let id = match self.byte()? {
            UUID => EventId::Uuid(Uuid::from_slice(&self.take(16)?).ok()?),
            TEXT => EventId::Text(std::str::from_utf8(&self.bytes()?).ok()?.into()),
            _ => return None,
        };
        let source = self.bytes()?;
        let source = std::str::from_utf8(&source).ok()?;
        let event_type = self.bytes()?;
        let event_type = EventType::parse(std::str::from_utf8(&event_type).ok()?).ok()?;
        let attributes = self.bytes()?;
        let data = self.bytes()?;
        Some(record::decode(
            id,
            source.into(),
            event_type,
            &attributes,
            data,
        ))
    }
}

fn write_number(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_number(bytes.len(), out);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use fanfare_core::data::Data;

    use super::*;

    fn event(id: &str) -> Event {
        Event::builder("a.b".parse().unwrap())
            .id(EventId::parse(id).unwrap())
            .key("k")
            .data(Data::json("{}"))
            .build()
            .unwrap()
    }

    #[test]
    fn frames_come_back_and_garbage_does_not() {
        let events = [event("1"), event("0190a5e4-3f5b-7d2a-9c41-1f2e3d4c5b6a")];
        let frame = Bytes::from(encode(&events));
        assert_eq!(decode(frame.clone()).unwrap(), events);
        for cut in 0..frame.len() {
            assert!(decode(frame.slice(..cut)).is_err(), "{cut}");
        }
        assert!(decode(Bytes::from_static(b"{\"json\": true}")).is_err());
    }
}
