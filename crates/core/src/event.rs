//! The event: CloudEvents 1.0 attributes, extensions, and data as raw bytes. Immutable and cheap to
//! clone; build one with [`Event::builder`]. JSON and HTTP forms live in [`crate::cloudevents`].

use std::fmt;
use std::sync::Arc;

use crate::data::Data;
use crate::event_type::EventType;
use crate::id::EventId;
use crate::timestamp::Timestamp;

mod builder;

pub use builder::{EventBuilder, is_extension_name};

/// The most extensions on one event.
pub const MAX_EXTENSIONS: usize = 64;
/// The most bytes in one attribute or extension value.
pub const MAX_ATTRIBUTE_BYTES: usize = 4096;

/// Extension names that Fanfare gives a meaning.
pub mod extension {
    /// The ordering key.
    pub const KEY: &str = "partitionkey";
    /// The conversation an event belongs to.
    pub const CORRELATION_ID: &str = "correlationid";
    /// The id of the event that caused this one.
    pub const CAUSATION_ID: &str = "causationid";
    /// W3C trace context of the start of the transmission.
    pub const TRACEPARENT: &str = "traceparent";
    /// W3C trace state.
    pub const TRACESTATE: &str = "tracestate";
    /// The user on whose behalf it happened.
    pub const USER_ID: &str = "userid";
    /// The user's session.
    pub const SESSION_ID: &str = "sessionid";
    /// The request that led to it.
    pub const REQUEST_ID: &str = "requestid";
    /// The process that published it.
    pub const INSTANCE_ID: &str = "instanceid";
}

/// The value of an extension attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtensionValue {
    /// A boolean.
    Boolean(bool),
    /// A signed 32-bit integer.
    Integer(i32),
    /// A string, URI, timestamp or base64 binary: CloudEvents JSON shows them all as strings.
    String(Arc<str>),
}

impl fmt::Display for ExtensionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::String(value) => f.write_str(value),
        }
    }
}

impl From<&str> for ExtensionValue {
    fn from(value: &str) -> Self {
        Self::String(value.into())
    }
}

impl From<String> for ExtensionValue {
    fn from(value: String) -> Self {
        Self::String(value.into())
    }
}

impl From<Arc<str>> for ExtensionValue {
    fn from(value: Arc<str>) -> Self {
        Self::String(value)
    }
}

impl From<bool> for ExtensionValue {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}

impl From<i32> for ExtensionValue {
    fn from(value: i32) -> Self {
        Self::Integer(value)
    }
}

/// An immutable fact.
#[derive(Clone, PartialEq)]
pub struct Event(Arc<Inner>);

#[derive(Clone, PartialEq)]
struct Inner {
    id: EventId,
    source: Arc<str>,
    event_type: EventType,
    attributes: Attributes,
    data: Option<Data>,
}

/// The optional attributes and the extensions, which are ordered by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Attributes {
    pub(crate) subject: Option<Arc<str>>,
    pub(crate) time: Option<Timestamp>,
    pub(crate) content_type: Option<Arc<str>>,
    pub(crate) schema: Option<Arc<str>>,
    pub(crate) extensions: Vec<(Arc<str>, ExtensionValue)>,
}

impl Event {
    /// Starts an event of `event_type`. Id (UUIDv7) and source (`/`) are filled in by
    /// [`EventBuilder::build`] unless given; the time is not.
    pub fn builder(event_type: EventType) -> EventBuilder {
        EventBuilder::new(event_type)
    }

    /// An event whose parts were checked when it was first built.
    pub(crate) fn from_parts(
        id: EventId,
        source: Arc<str>,
        event_type: EventType,
        attributes: Attributes,
        data: Option<Data>,
    ) -> Self {
        Self(Arc::new(Inner {
            id,
            source,
            event_type,
            attributes,
            data,
        }))
    }

    pub(crate) fn attributes(&self) -> &Attributes {
        &self.0.attributes
    }

    /// The id; unique together with the source.
    pub fn id(&self) -> &EventId {
        &self.0.id
    }

    /// The context in which it happened, a URI reference.
    pub fn source(&self) -> &Arc<str> {
        &self.0.source
    }

    /// The routing address.
    pub fn event_type(&self) -> &EventType {
        &self.0.event_type
    }

    /// What it is about, within the source.
    pub fn subject(&self) -> Option<&str> {
        self.0.attributes.subject.as_deref()
    }

    /// When it happened.
    pub fn time(&self) -> Option<Timestamp> {
        self.0.attributes.time
    }

    /// The media type of the data.
    pub fn content_type(&self) -> Option<&str> {
        self.0.attributes.content_type.as_deref()
    }

    /// The schema that the data follow, an absolute URI.
    pub fn schema(&self) -> Option<&str> {
        self.0.attributes.schema.as_deref()
    }

    /// The payload.
    pub fn data(&self) -> Option<&Data> {
        self.0.data.as_ref()
    }

    /// The payload's bytes, empty when there is none.
    pub fn bytes(&self) -> &[u8] {
        self.0.data.as_ref().map_or(&[], |data| data.bytes())
    }

    /// An extension by name.
    pub fn extension(&self, name: &str) -> Option<&ExtensionValue> {
        let extensions = &self.0.attributes.extensions;
        let found = extensions.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
        extensions.get(found).map(|(_, value)| value)
    }

    /// An extension that is a string.
    pub fn extension_str(&self, name: &str) -> Option<&str> {
        match self.extension(name)? {
            ExtensionValue::String(value) => Some(value),
            _ => None,
        }
    }

    /// Every extension, ordered by name.
    pub fn extensions(&self) -> impl ExactSizeIterator<Item = (&str, &ExtensionValue)> {
        let extensions = &self.0.attributes.extensions;
        extensions.iter().map(|(name, value)| (&**name, value))
    }

    /// The ordering key: the extension `partitionkey`.
    pub fn key(&self) -> Option<&str> {
        self.extension_str(extension::KEY)
    }

    /// Starts a changed copy.
    pub fn to_builder(&self) -> EventBuilder {
        EventBuilder::changing(self)
    }

    /// About how many bytes it takes, for limits and caches.
    pub fn size(&self) -> usize {
        let text = |t: &Option<Arc<str>>| t.as_ref().map_or(0, |t| t.len());
        let id = if let EventId::Text(id) = self.id() {
            id.len()
        } else {
            16
        };
        let extensions: usize = self
            .extensions()
            .map(|(name, value)| match value {
                ExtensionValue::String(value) => name.len() + value.len(),
                _ => name.len() + 8,
            })
            .sum();
        let attributes = &self.0.attributes;
        id + self.source().len()
            + self.event_type().as_str().len()
            + text(&attributes.subject)
            + text(&attributes.content_type)
            + text(&attributes.schema)
            + extensions
            + self.bytes().len()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Payloads may hold secrets: only their length is shown.
        f.debug_struct("Event")
            .field("id", self.id())
            .field("source", self.source())
            .field("type", self.event_type())
            .field("bytes", &self.bytes().len())
            .finish_non_exhaustive()
    }
}
