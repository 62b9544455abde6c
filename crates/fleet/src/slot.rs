//! What stands at a position: an event, or bytes that nobody can read as one.

use bytes::Bytes;
use fanfare_core::dead_letter::DeadBody;
use fanfare_core::event::Event;

use crate::frame;

/// One event as it stands in the log, or bytes that are none.
#[derive(Debug, Clone)]
pub enum Slot {
    /// An event.
    Event(Event),
    /// Undecodable input as it came.
    Raw(Bytes),
}

impl Slot {
    /// The event, where it is one.
    pub fn event(&self) -> Option<&Event> {
        match self {
            Self::Event(event) => Some(event),
            Self::Raw(_) => None,
        }
    }

    /// For a dead letter: a frame of the event, or `r` and the raw bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Event(event) => frame::encode(std::slice::from_ref(event)),
            Self::Raw(bytes) => [b"r", &bytes[..]].concat(),
        }
    }

    /// What [`Slot::encode`] wrote.
    pub fn decode(bytes: Bytes) -> Self {
        if bytes.first() == Some(&b'r') {
            return Self::Raw(bytes.slice(1..));
        }
        match frame::decode(bytes.clone())
            .ok()
            .and_then(|mut events| events.pop())
        {
            Some(event) => Self::Event(event),
            None => Self::Raw(bytes),
        }
    }
}

impl From<DeadBody> for Slot {
    fn from(body: DeadBody) -> Self {
        match body {
            DeadBody::Event(event) => Self::Event(event),
            DeadBody::Raw(bytes) => Self::Raw(bytes),
        }
    }
}

impl From<Slot> for DeadBody {
    fn from(slot: Slot) -> Self {
        match slot {
            Slot::Event(event) => Self::Event(event),
            Slot::Raw(bytes) => Self::Raw(bytes),
        }
    }
}
