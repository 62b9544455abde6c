//! The HTTP binding: which content mode a message has, and binary mode, where attributes are `ce-`
//! headers and the body is the data. Headers are pairs; no HTTP crate is needed.

use super::attribute::{Form, Value, shorten};
use super::{SPEC_VERSION, media_type, payload};
use crate::data::DataKind;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventBuilder};
use crate::event_type::EventType;

/// What every attribute header begins with.
pub const PREFIX: &str = "ce-";

/// How a message carries events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The body is one event: [`from_json`](super::from_json).
    Structured,
    /// The body is an array of events: [`from_json_batch`](super::from_json_batch).
    Batch,
    /// Attributes are headers: [`from_binary`].
    Binary,
    /// No CloudEvent: [`from_plain_json`](super::from_plain_json) or
    /// [`from_plain_json_batch`](super::from_plain_json_batch).
    Plain,
}

impl Mode {
    /// Decides by the content type first and then by whether any header [`is_attribute`]; an
    /// [`Unsupported`](ErrorKind::Unsupported) error where neither says what the message is.
    pub fn of(content_type: Option<&str>, has_attributes: bool) -> Result<Self> {
        let given = content_type.map_or("", media_type::essence);
        let is = |known: &str| given.eq_ignore_ascii_case(known);
        if is(media_type::BATCH) {
            Ok(Self::Batch)
        } else if is(media_type::EVENT) || is("application/cloudevents") {
            Ok(Self::Structured)
        } else if media_type::starts_with(given, "application/cloudevents") {
            Err(unsupported(given, "CloudEvents are read as JSON only"))
        } else if has_attributes {
            Ok(Self::Binary)
        } else if is(media_type::JSON) {
            Ok(Self::Plain)
        } else {
            let hint = "send application/cloudevents+json, application/json, or ce- headers";
            Err(unsupported(given, hint))
        }
    }
}

/// Whether a header of this name is an attribute.
pub fn is_attribute(name: &str) -> bool {
    media_type::starts_with(name, PREFIX)
}

/// Reads an event in binary mode. Pairs are header names and values as received; others than
/// `ce-*` and `Content-Type` are skipped.
pub fn from_binary<N, V>(headers: impl IntoIterator<Item = (N, V)>, body: &[u8]) -> Result<Event>
where
    N: AsRef<str>,
    V: AsRef<[u8]>,
{
    let mut builder = Event::builder(EventType::stand_in());
    let mut given: Vec<String> = Vec::new();
    let mut content_type = None;
    for (name, value) in headers {
        let name = name.as_ref().to_ascii_lowercase();
        let attribute = match name.strip_prefix(PREFIX) {
            Some("datacontenttype") => {
                let detail =
                    "Content-Type says what the data are, ce-datacontenttype is not allowed";
                builder.violate("datacontenttype", detail);
                continue;
            }
            Some(attribute) => attribute,
            None if name == "content-type" => "datacontenttype",
            None => continue,
        };
        if given.iter().any(|n| n == attribute) {
            builder.violate(attribute, format!("header {name} appears more than once"));
            continue;
        }
        given.push(attribute.to_owned());
        let text = if attribute == "datacontenttype" {
            std::str::from_utf8(value.as_ref())
                .map(str::to_owned)
                .map_err(|_| "is not UTF-8".to_owned())
        } else {
            decode(value.as_ref())
        };
        match text {
            Ok(text) => {
                if attribute == "datacontenttype" {
                    content_type = Some(text.clone());
                }
                builder = Form::CloudEvents.set(builder, attribute, Value::Text(text.into()));
            }
            Err(detail) => builder.violate(attribute, format!("header {name} {detail}")),
        }
    }
    Form::CloudEvents.require(&mut builder, |name| given.iter().any(|n| n == name));
    with_body(builder, body, content_type.as_deref()).build()
}

/// The headers and body of an event in binary mode. An event without data has an empty body, as
/// has one with empty data: HTTP cannot tell them apart.
pub fn to_binary(event: &Event) -> (Vec<(String, String)>, Vec<u8>) {
    let mut headers = vec![
        ("ce-specversion".to_owned(), SPEC_VERSION.to_owned()),
        ("ce-id".to_owned(), encode(&event.id().to_string())),
        ("ce-source".to_owned(), encode(event.source())),
        ("ce-type".to_owned(), event.event_type().to_string()),
    ];
    if let Some(subject) = event.subject() {
        headers.push(("ce-subject".to_owned(), encode(subject)));
    }
    if let Some(time) = event.time() {
        headers.push(("ce-time".to_owned(), time.to_string()));
    }
    if let Some(schema) = event.schema() {
        headers.push(("ce-dataschema".to_owned(), encode(schema)));
    }
    for (name, value) in event.extensions() {
        headers.push((format!("{PREFIX}{name}"), encode(&value.to_string())));
    }
    // The JSON format lets JSON be understood; HTTP does not.
    let is_json = event.data().map(crate::data::Data::kind) == Some(DataKind::Json);
    let content_type = event.content_type();
    if let Some(content_type) = content_type.or(is_json.then_some(media_type::JSON)) {
        headers.push(("content-type".to_owned(), content_type.to_owned()));
    }
    (headers, event.bytes().to_vec())
}

fn with_body(mut builder: EventBuilder, body: &[u8], content_type: Option<&str>) -> EventBuilder {
    match payload::from_body(body, content_type) {
        Ok(Some(data)) => builder.data(data),
        Ok(None) => builder,
        Err(detail) => {
            builder.violate("data", detail);
            builder
        }
    }
}

/// Percent-encodes space, `"`, `%` and everything that is not printable ASCII.
fn encode(text: &str) -> String {
    const HEX: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    let hex = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or('0');
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' | 0..=0x20 | 0x7F.. => {
                out.extend(['%', hex(byte >> 4), hex(byte & 0xF)]);
            }
            _ => out.push(char::from(byte)),
        }
    }
    out
}

/// Unquotes, then decodes percent escapes once.
fn decode(value: &[u8]) -> Result<String, String> {
    let unquoted = unquote(value.trim_ascii())?;
    let mut out = Vec::with_capacity(unquoted.len());
    let mut bytes = unquoted.into_iter();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
        match digit().zip(digit()).map(|(high, low)| high * 16 + low) {
            Some(code) => out.extend(u8::try_from(code)),
            None => return Err("has a `%` without two hexadecimal digits".into()),
        }
    }
    String::from_utf8(out).map_err(|_| "does not decode to UTF-8".into())
}

/// Removes the double quotes around quoted parts, and the backslashes within them.
fn unquote(value: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(value.len());
    let mut quoted = false;
    let mut bytes = value.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => out.extend(bytes.next()),
            _ => out.push(byte),
        }
    }
    if quoted {
        return Err("has an unclosed quote".into());
    }
    Ok(out)
}

fn unsupported(given: &str, hint: &str) -> Error {
    let given = shorten(given);
    Error::new(
        ErrorKind::Unsupported,
        format!("content type `{given}`: {hint}"),
    )
}
