//! Building an event: collects its attributes, checks each against CloudEvents 1.0, and names every
//! violation at once. Not a parser: the wire forms live in [`crate::cloudevents`].

use std::sync::Arc;

use super::{Attributes, Event, ExtensionValue, MAX_ATTRIBUTE_BYTES, MAX_EXTENSIONS, extension};
use crate::cloudevents::media_type;
use crate::data::{Data, DataKind};
use crate::error::{Error, Result, Violation};
use crate::event_type::EventType;
use crate::id::EventId;
use crate::timestamp::Timestamp;

/// Collects the attributes of an [`Event`]; [`EventBuilder::build`] names every violation at once.
#[derive(Debug, Clone)]
pub struct EventBuilder {
    id: Option<EventId>,
    source: Option<Arc<str>>,
    event_type: EventType,
    attributes: Attributes,
    data: Option<Data>,
    violations: Vec<Violation>,
}

impl EventBuilder {
    pub(super) fn new(event_type: EventType) -> Self {
        Self {
            id: None,
            source: None,
            event_type,
            attributes: Attributes::default(),
            data: None,
            violations: Vec::new(),
        }
    }

    pub(super) fn changing(event: &Event) -> Self {
        Self {
            id: Some(event.id().clone()),
            source: Some(event.source().clone()),
            event_type: event.event_type().clone(),
            attributes: event.attributes().clone(),
            data: event.data().cloned(),
            violations: Vec::new(),
        }
    }

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

    /// Sets the event type.
    #[must_use]
    pub fn event_type(mut self, event_type: EventType) -> Self {
        self.event_type = event_type;
        self
    }

    /// Sets the source, a non-empty URI reference.
    #[must_use]
    pub fn source(mut self, source: impl Into<Arc<str>>) -> Self {
        let source = source.into();
        self.check_text("source", &source);
        if !source.is_empty() && !is_uri_reference(&source) {
            self.violate("source", "source is not a URI reference");
        }
        self.source = Some(source);
        self
    }

    /// Whether a source was set.
    pub fn has_source(&self) -> bool {
        self.source.is_some()
    }

    /// Sets the subject.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<Arc<str>>) -> Self {
        let subject = subject.into();
        self.check_text("subject", &subject);
        self.attributes.subject = Some(subject);
        self
    }

    /// Sets the time.
    #[must_use]
    pub fn time(mut self, time: Timestamp) -> Self {
        self.attributes.time = Some(time);
        self
    }

    /// Sets the time unless it is set already.
    #[must_use]
    pub fn time_if_absent(mut self, time: Timestamp) -> Self {
        self.attributes.time.get_or_insert(time);
        self
    }

    /// Sets the media type of the data.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<Arc<str>>) -> Self {
        let content_type = content_type.into();
        self.check_text("datacontenttype", &content_type);
        if !content_type.is_empty() && !media_type::is_well_formed(&content_type) {
            self.violate(
                "datacontenttype",
                "datacontenttype is not a media type such as application/json",
            );
        }
        self.attributes.content_type = Some(content_type);
        self
    }

    /// Sets the schema, an absolute URI.
    #[must_use]
    pub fn schema(mut self, schema: impl Into<Arc<str>>) -> Self {
        let schema = schema.into();
        self.check_text("dataschema", &schema);
        let is_uri = has_scheme(&schema) && is_uri_reference(&schema);
        if !schema.is_empty() && !is_uri {
            self.violate("dataschema", "dataschema is not an absolute URI");
        }
        self.attributes.schema = Some(schema);
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
        let extensions = &mut self.attributes.extensions;
        match extensions.binary_search_by(|(n, _)| (**n).cmp(name)) {
            Ok(found) => {
                if let Some(slot) = extensions.get_mut(found) {
                    slot.1 = value;
                }
            }
            Err(at) => extensions.insert(at, (name.into(), value)),
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
        self.attributes
            .extensions
            .binary_search_by(|(n, _)| (**n).cmp(name))
            .is_ok()
    }

    /// Sets the payload. Text without a media type becomes `text/plain`.
    #[must_use]
    pub fn data(mut self, data: Data) -> Self {
        self.data = Some(data);
        self
    }

    /// Removes the payload.
    #[must_use]
    pub fn without_data(mut self) -> Self {
        self.data = None;
        self
    }

    /// The event, or every violation at once.
    pub fn build(self) -> Result<Event> {
        let mut checked = self.check()?;
        let attributes = &mut checked.attributes;
        let is_text = checked.data.as_ref().map(Data::kind) == Some(DataKind::Text);
        if is_text && attributes.content_type.is_none() {
            attributes.content_type = Some(media_type::TEXT.into());
        }
        Ok(Event::from_parts(
            checked.id.unwrap_or_else(EventId::generate),
            checked.source.unwrap_or_else(|| Arc::from("/")),
            checked.event_type,
            checked.attributes,
            checked.data,
        ))
    }

    /// Itself if nothing is wrong so far, or every violation at once.
    pub(crate) fn check(mut self) -> Result<Self> {
        if self.attributes.extensions.len() > MAX_EXTENSIONS {
            self.violate("", format!("more than {MAX_EXTENSIONS} extensions"));
        }
        if self.violations.is_empty() {
            Ok(self)
        } else {
            Err(Error::violating(self.violations))
        }
    }

    /// Notes that the member `name` (empty: the whole event) breaks a rule.
    pub(crate) fn violate(&mut self, name: &str, detail: impl Into<String>) {
        self.violations.push(Violation::of_member(name, detail));
    }

    /// Notes every violation of `error`.
    pub(crate) fn violate_all(&mut self, error: &Error) {
        self.violations.extend_from_slice(error.violations());
    }

    /// How many violations were noted so far.
    pub(crate) fn violations(&self) -> usize {
        self.violations.len()
    }

    /// Lets every violation noted since there were `before` point to `pointer`, for forms that call
    /// the attribute by another name.
    pub(crate) fn point_since(&mut self, before: usize, pointer: &str) {
        for violation in self.violations.iter_mut().skip(before) {
            pointer.clone_into(&mut violation.pointer);
        }
    }

    fn check_text(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            self.violate(name, format!("{name} is empty"));
        } else if value.len() > MAX_ATTRIBUTE_BYTES {
            self.violate(
                name,
                format!("{name} is longer than {MAX_ATTRIBUTE_BYTES} bytes"),
            );
        } else if !is_plain(value) && value.chars().any(is_forbidden) {
            self.violate(
                name,
                format!("{name} contains a control character or noncharacter"),
            );
        }
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

/// Most texts are, and need no second look.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| (0x20..0x7F).contains(&b))
}

fn is_forbidden(c: char) -> bool {
    let code = u32::from(c);
    c.is_control() || code & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&code)
}

/// Whether every character may stand in a URI and every `%` begins an escape. Letters beyond ASCII
/// pass, as people type them.
fn is_uri_reference(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let good = match byte {
            b' ' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' => false,
            b'%' => {
                let mut hex = || bytes.next().is_some_and(|b| b.is_ascii_hexdigit());
                hex() && hex()
            }
            _ => true,
        };
        if !good {
            return false;
        }
    }
    true
}

fn has_scheme(uri: &str) -> bool {
    uri.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
            && !rest.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> EventBuilder {
        Event::builder("a".parse().unwrap())
    }

    #[test]
    fn every_violation_is_named_at_once() {
        let error = builder()
            .source("")
            .subject("x\ny")
            .extension("user_id", "1")
            .build()
            .unwrap_err();
        assert_eq!(error.violations().len(), 3, "{error}");
    }

    #[test]
    fn extensions_are_found_and_replaced() {
        let event = builder()
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

    #[test]
    fn sources_are_uri_references_and_schemas_absolute_uris() {
        for good in [
            "/",
            "orders",
            "https://a.b/c?d=e#f",
            "/a%20b",
            "urn:x:1",
            "/ü",
        ] {
            assert!(builder().source(good).build().is_ok(), "{good}");
        }
        for bad in ["a b", "/%2", "/%zz", "<x>"] {
            assert!(builder().source(bad).build().is_err(), "{bad}");
        }
        assert!(builder().schema("https://x/y.json").build().is_ok());
        for bad in ["/y.json", "y", "1x:y", "x:"] {
            assert!(builder().schema(bad).build().is_err(), "{bad}");
        }
    }

    #[test]
    fn text_without_a_media_type_is_text_plain() {
        let event = builder().data(Data::text("hello")).build().unwrap();
        assert_eq!(event.content_type(), Some(media_type::TEXT));
    }
}
