//! The event: CloudEvents 1.0 attributes, extensions, and data as raw bytes. Immutable and cheap to
//! clone; build one with [`Event::builder`]. JSON and HTTP forms live in [`crate::cloudevents`].

use std::fmt;
use std::sync::Arc;

use crate::data::Data;
use crate::error::{Error, Result, Violation};
use crate::event_type::EventType;
use crate::id::EventId;
use crate::timestamp::Timestamp;

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
    subject: Option<Arc<str>>,
    time: Option<Timestamp>,
    content_type: Option<Arc<str>>,
    schema: Option<Arc<str>>,
    extensions: Vec<(Arc<str>, ExtensionValue)>,
    data: Option<Data>,
}

impl Event {
    /// Starts an event of `event_type`. Id (UUIDv7) and source (`/`) are filled in by
    /// [`EventBuilder::build`] unless given; the time is not.
    pub fn builder(event_type: EventType) -> EventBuilder {
        EventBuilder {
            id: None,
            event_type,
            inner: Parts::default(),
            violations: Vec::new(),
        }
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
        self.0.subject.as_deref()
    }

    /// When it happened.
    pub fn time(&self) -> Option<Timestamp> {
        self.0.time
    }

    /// The media type of the data.
    pub fn content_type(&self) -> Option<&str> {
        self.0.content_type.as_deref()
    }

    /// The schema that the data follow, an absolute URI.
    pub fn schema(&self) -> Option<&str> {
        self.0.schema.as_deref()
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
        let found = self
            .0
            .extensions
            .binary_search_by(|(n, _)| (**n).cmp(name))
            .ok()?;
        self.0.extensions.get(found).map(|(_, value)| value)
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
        self.0
            .extensions
            .iter()
            .map(|(name, value)| (&**name, value))
    }

    /// The ordering key: the extension `partitionkey`.
    pub fn key(&self) -> Option<&str> {
        self.extension_str(extension::KEY)
    }

    /// Starts a changed copy.
    pub fn to_builder(&self) -> EventBuilder {
        let inner = (*self.0).clone();
        EventBuilder {
            id: Some(inner.id),
            event_type: inner.event_type,
            inner: Parts {
                source: Some(inner.source),
                subject: inner.subject,
                time: inner.time,
                content_type: inner.content_type,
                schema: inner.schema,
                extensions: inner.extensions,
                data: inner.data,
            },
            violations: Vec::new(),
        }
    }

    /// About how many bytes it takes, for limits and caches.
    pub fn size(&self) -> usize {
        let inner = &*self.0;
        let text = |t: &Option<Arc<str>>| t.as_ref().map_or(0, |t| t.len());
        let extensions: usize = inner
            .extensions
            .iter()
            .map(|(name, value)| {
                name.len()
                    + if let ExtensionValue::String(s) = value {
                        s.len()
                    } else {
                        8
                    }
            })
            .sum();
        let id = if let EventId::Text(id) = &inner.id {
            id.len()
        } else {
            16
        };
        id + inner.source.len()
            + inner.event_type.as_str().len()
            + text(&inner.subject)
            + text(&inner.content_type)
            + text(&inner.schema)
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

/// Collects the attributes of an [`Event`]; [`EventBuilder::build`] names every violation at once.
#[derive(Debug, Clone)]
pub struct EventBuilder {
    id: Option<EventId>,
    event_type: EventType,
    inner: Parts,
    violations: Vec<Violation>,
}

#[derive(Debug, Clone, Default)]
struct Parts {
    source: Option<Arc<str>>,
    subject: Option<Arc<str>>,
    time: Option<Timestamp>,
    content_type: Option<Arc<str>>,
    schema: Option<Arc<str>>,
    extensions: Vec<(Arc<str>, ExtensionValue)>,
    data: Option<Data>,
}

impl EventBuilder {
    /// Sets the id.
    #[must_use]
    pub fn id(mut self, id: EventId) -> Self {
        self.id = Some(id);
        self
    }

    /// Whether an id was set.
    pub fn has_id(&self) -> bool {
        self.id.is_some()
    }

    /// Whether a source was set.
    pub fn has_source(&self) -> bool {
        self.inner.source.is_some()
    }

    /// Sets the source, a non-empty URI reference.
    #[must_use]
    pub fn source(mut self, source: impl Into<Arc<str>>) -> Self {
        let source = source.into();
        self.check_text("source", &source);
        self.inner.source = Some(source);
        self
    }

    /// Sets the subject.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<Arc<str>>) -> Self {
        let subject = subject.into();
        self.check_text("subject", &subject);
        self.inner.subject = Some(subject);
        self
    }

    /// Sets the time.
    #[must_use]
    pub fn time(mut self, time: Timestamp) -> Self {
        self.inner.time = Some(time);
        self
    }

    /// Sets the media type of the data.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<Arc<str>>) -> Self {
        let content_type = content_type.into();
        self.check_text("datacontenttype", &content_type);
        self.inner.content_type = Some(content_type);
        self
    }

    /// Sets the schema URI.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<Arc<str>>) -> Self {
        let schema = schema.into();
        self.check_text("dataschema", &schema);
        self.inner.schema = Some(schema);
        self
    }

    /// Sets the ordering key.
    #[must_use]
    pub fn key(self, key: impl Into<Arc<str>>) -> Self {
        self.extension(extension::KEY, key.into())
    }

    /// Sets an extension; the name takes 1 to 64 of `a-z` and `0-9`.
    #[must_use]
    pub fn extension(mut self, name: &str, value: impl Into<ExtensionValue>) -> Self {
        let value = value.into();
        if let ExtensionValue::String(text) = &value
            && !text.is_empty()
        {
            self.check_text(name, text);
        }
        if !is_extension_name(name) {
            self.violate(
                name,
                format!(
                    "extension name `{}` is not made of a-z and 0-9",
                    name.escape_debug()
                ),
            );
        }
        match self
            .inner
            .extensions
            .binary_search_by(|(n, _)| (**n).cmp(name))
        {
            Ok(found) => {
                if let Some(slot) = self.inner.extensions.get_mut(found) {
                    slot.1 = value;
                }
            }
            Err(at) => self.inner.extensions.insert(at, (name.into(), value)),
        }
        self
    }

    /// Sets an extension unless it is there already.
    #[must_use]
    pub fn extension_if_absent(self, name: &str, value: impl Into<ExtensionValue>) -> Self {
        if self.has_extension(name) {
            self
        } else {
            self.extension(name, value)
        }
    }

    /// Whether the extension is set.
    pub fn has_extension(&self, name: &str) -> bool {
        self.inner
            .extensions
            .binary_search_by(|(n, _)| (**n).cmp(name))
            .is_ok()
    }

    /// Sets the payload.
    #[must_use]
    pub fn data(mut self, data: Data) -> Self {
        self.inner.data = Some(data);
        self
    }

    /// Removes the payload.
    #[must_use]
    pub fn without_data(mut self) -> Self {
        self.inner.data = None;
        self
    }

    /// The event, or every violation at once.
    pub fn build(mut self) -> Result<Event> {
        if self.inner.extensions.len() > MAX_EXTENSIONS {
            self.violate("", format!("more than {MAX_EXTENSIONS} extensions"));
        }
        if !self.violations.is_empty() {
            return Err(Error::violating(self.violations));
        }
        let parts = self.inner;
        Ok(Event(Arc::new(Inner {
            id: self.id.unwrap_or_else(EventId::generate),
            source: parts.source.unwrap_or_else(|| Arc::from("/")),
            event_type: self.event_type,
            subject: parts.subject,
            time: parts.time,
            content_type: parts.content_type,
            schema: parts.schema,
            extensions: parts.extensions,
            data: parts.data,
        })))
    }

    fn check_text(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            self.violate(name, format!("{name} is empty"));
        } else if value.len() > MAX_ATTRIBUTE_BYTES {
            self.violate(
                name,
                format!("{name} is longer than {MAX_ATTRIBUTE_BYTES} bytes"),
            );
        } else if value.chars().any(is_forbidden) {
            self.violate(
                name,
                format!("{name} contains a control character or noncharacter"),
            );
        }
    }

    fn violate(&mut self, name: &str, detail: String) {
        let pointer = if name.is_empty() {
            String::new()
        } else {
            format!("/{}", name.escape_debug())
        };
        self.violations.push(Violation { pointer, detail });
    }
}

/// Whether `name` may name an extension: 1 to 64 of `a-z` and `0-9`, and no reserved word.
pub fn is_extension_name(name: &str) -> bool {
    const RESERVED: [&str; 10] = [
        "data",
        "data_base64",
        "id",
        "source",
        "specversion",
        "type",
        "datacontenttype",
        "dataschema",
        "subject",
        "time",
    ];
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && !RESERVED.contains(&name)
}

fn is_forbidden(c: char) -> bool {
    let code = u32::from(c);
    c.is_control() || code & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_violation_is_named_at_once() {
        let error = Event::builder("a".parse().unwrap())
            .source("")
            .subject("x\ny")
            .extension("user_id", "1")
            .build()
            .unwrap_err();
        assert_eq!(error.violations().len(), 3, "{error}");
    }

    #[test]
    fn extensions_are_found_and_replaced() {
        let event = Event::builder("a".parse().unwrap())
            .key("k1")
            .extension("zz", 7)
            .extension("aa", true)
            .key("k2")
            .build()
            .unwrap();
        assert_eq!(event.key(), Some("k2"));
        assert_eq!(event.extension("zz"), Some(&ExtensionValue::Integer(7)));
        assert_eq!(
            event.extensions().map(|(n, _)| n).collect::<Vec<_>>(),
            ["aa", "partitionkey", "zz"]
        );
        assert_eq!(event.to_builder().build().unwrap(), event);
    }
}
