//! From a named value to an attribute of the event, for every wire form alike.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::SPEC_VERSION;
use super::members::text;
use crate::event::{EventBuilder, ExtensionValue, extension, is_extension_name};
use crate::event_type::EventType;
use crate::id::EventId;
use crate::timestamp::Timestamp;

/// Which rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// CloudEvents: four required attributes, any extension.
    CloudEvents,
    /// What people type: only a type is required, only known names are allowed.
    Plain,
}

/// The extensions that the plain form takes by name.
const PLAIN_EXTENSIONS: [&str; 9] = [
    extension::KEY,
    extension::CORRELATION_ID,
    extension::CAUSATION_ID,
    extension::TRACEPARENT,
    extension::TRACESTATE,
    extension::USER_ID,
    extension::SESSION_ID,
    extension::REQUEST_ID,
    extension::INSTANCE_ID,
];

/// How much of a bad name or value an error shows, in characters.
const SHOWN: usize = 80;

impl Form {
    fn required(self) -> &'static [&'static str] {
        match self {
            Self::CloudEvents => &["specversion", "id", "source", "type"],
            Self::Plain => &["type"],
        }
    }

    /// Notes every required attribute that `given` does not hold.
    pub(crate) fn require(self, builder: &mut EventBuilder, given: impl Fn(&str) -> bool) {
        for name in self.required() {
            if !given(name) {
                builder.violate(name, format!("{name} is missing"));
            }
        }
    }

    /// Sets one attribute; what is wrong with it is noted in the builder.
    pub(crate) fn set(
        self,
        mut builder: EventBuilder,
        name: &str,
        value: Value<'_>,
    ) -> EventBuilder {
        let is_core = matches!(
            name,
            "specversion"
                | "id"
                | "type"
                | "source"
                | "subject"
                | "time"
                | "datacontenttype"
                | "dataschema"
        ) || (self == Self::Plain && name == "key");
        if !is_core {
            return self.set_extension(builder, name, value);
        }
        let Value::Text(text) = value else {
            builder.violate(name, format!("{name} must be a string"));
            return builder;
        };
        match name {
            "specversion" if self == Self::Plain => {
                builder.violate(
                    name,
                    "specversion belongs to CloudEvents: send it as application/cloudevents+json",
                );
                builder
            }
            "specversion" => {
                if text != SPEC_VERSION {
                    let given = shorten(&text);
                    builder.violate(
                        name,
                        format!("specversion must be \"1.0\", not \"{given}\""),
                    );
                }
                builder
            }
            "id" => match EventId::parse(&text) {
                Ok(id) => builder.id(id),
                Err(error) => violating(builder, &error),
            },
            "type" => match EventType::parse(&text) {
                Ok(event_type) => builder.event_type(event_type),
                Err(error) => violating(builder, &error),
            },
            "time" => match text.parse::<Timestamp>() {
                Ok(time) => builder.time(time),
                Err(error) => {
                    builder.violate(name, shorten(error.message()));
                    builder
                }
            },
            "source" => builder.source(text),
            "subject" => builder.subject(text),
            "datacontenttype" => builder.content_type(text),
            "dataschema" => builder.schema(text),
            _ if builder.has_extension(extension::KEY) => {
                builder.violate(name, "key and partitionkey are the same, give only one");
                builder
            }
            _ => builder.key(text),
        }
    }

    fn set_extension(
        self,
        mut builder: EventBuilder,
        name: &str,
        value: Value<'_>,
    ) -> EventBuilder {
        if self == Self::Plain && !PLAIN_EXTENSIONS.contains(&name) {
            builder.violate(
                &shorten(name),
                format!("unknown member `{}`", shorten(name)),
            );
            return builder;
        }
        if !is_extension_name(name) {
            builder.violate(
                &shorten(name),
                format!("`{}` is no attribute name: a-z and 0-9 only", shorten(name)),
            );
            return builder;
        }
        if name == extension::KEY && builder.has_extension(name) {
            builder.violate(name, "key and partitionkey are the same, give only one");
            return builder;
        }
        let value = match value {
            Value::Boolean(value) => ExtensionValue::Boolean(value),
            Value::Integer(value) => ExtensionValue::Integer(value),
            Value::Text(value) => ExtensionValue::String(value.into()),
        };
        if name == extension::KEY && !matches!(value, ExtensionValue::String(_)) {
            builder.violate(name, format!("{name} must be a string"));
            return builder;
        }
        builder.extension(name, value)
    }
}

/// The value of an attribute on the wire.
pub(crate) enum Value<'a> {
    Boolean(bool),
    Integer(i32),
    Text(Cow<'a, str>),
}

impl<'a> Value<'a> {
    /// Reads a JSON value; none where it is null, and a sentence where no attribute can hold it.
    pub(crate) fn read(raw: &'a RawValue) -> Result<Option<Self>, &'static str> {
        let json = raw.get();
        match json.as_bytes().first() {
            Some(b'n') => Ok(None),
            Some(b't') => Ok(Some(Self::Boolean(true))),
            Some(b'f') => Ok(Some(Self::Boolean(false))),
            Some(b'"') => match text(json) {
                Some(text) => Ok(Some(Self::Text(text))),
                None => Err("is not a string of Unicode characters"),
            },
            Some(b'-' | b'0'..=b'9') => match json.parse() {
                Ok(number) => Ok(Some(Self::Integer(number))),
                Err(_) => Err("is not a 32-bit integer; send it as a string"),
            },
            _ => Err("is an array or object; attributes are strings, integers or booleans"),
        }
    }
}

/// The beginning of a text that came from outside, fit for an error message.
pub(crate) fn shorten(text: &str) -> String {
    let shown: String = text.chars().take(SHOWN).collect();
    shown.escape_debug().to_string()
}

fn violating(mut builder: EventBuilder, error: &crate::Error) -> EventBuilder {
    builder.violate_all(error);
    builder
}
