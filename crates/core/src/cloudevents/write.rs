//! Writing the CloudEvents JSON format. JSON data are appended as the bytes they came in.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::payload;
use crate::data::DataKind;
use crate::event::{Event, ExtensionValue};
use crate::id::EventId;

/// The attributes take about this many bytes beside the values counted by `Event::size`.
const OVERHEAD: usize = 160;

/// One event in the CloudEvents JSON format. JSON data keep their line breaks, if they have any.
pub fn to_json(event: &Event) -> Vec<u8> {
    let mut out = Vec::with_capacity(event.size() + OVERHEAD);
    write_json(event, &mut out);
    out
}

/// A CloudEvents JSON batch.
pub fn to_json_batch<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<u8> {
    let mut out = vec![b'['];
    for (index, event) in events.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_json(event, &mut out);
    }
    out.push(b']');
    out
}

/// Appends one event in the CloudEvents JSON format.
pub fn write_json(event: &Event, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"specversion":"1.0","id":"#);
    match event.id() {
        EventId::Uuid(uuid) => {
            let mut buffer = uuid::Uuid::encode_buffer();
            out.push(b'"');
            out.extend_from_slice(uuid.hyphenated().encode_lower(&mut buffer).as_bytes());
            out.push(b'"');
        }
        EventId::Text(text) => write_string(text, out),
    }
    write_member("source", event.source(), out);
    // The grammar of event types needs no escapes.
    out.extend_from_slice(br#","type":""#);
    out.extend_from_slice(event.event_type().as_str().as_bytes());
    out.push(b'"');
    if let Some(subject) = event.subject() {
        write_member("subject", subject, out);
    }
    if let Some(time) = event.time() {
        display(format_args!(r#","time":"{time}""#), out);
    }
    if let Some(content_type) = event.content_type() {
        write_member("datacontenttype", content_type, out);
    }
    if let Some(schema) = event.schema() {
        write_member("dataschema", schema, out);
    }
    for (name, value) in event.extensions() {
        match value {
            ExtensionValue::String(text) => write_member(name, text, out),
            other => display(format_args!(r#","{name}":{other}"#), out),
        }
    }
    write_data(event, out);
    out.push(b'}');
}

fn write_data(event: &Event, out: &mut Vec<u8>) {
    let Some(data) = event.data() else { return };
    match payload::kind_in_json(data, event.content_type()) {
        DataKind::Json => {
            out.extend_from_slice(br#","data":"#);
            out.extend_from_slice(data.bytes());
        }
        DataKind::Text if let Ok(text) = std::str::from_utf8(data.bytes()) => {
            write_member("data", text, out);
        }
        _ => {
            out.extend_from_slice(br#","data_base64":""#);
            out.extend_from_slice(STANDARD.encode(data.bytes()).as_bytes());
            out.push(b'"');
        }
    }
}

fn write_member(name: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    write_string(value, out);
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    // Neither writing into a vector nor serialising a string can fail.
    let _ = serde_json::to_writer(out, text);
}

fn display(arguments: std::fmt::Arguments<'_>, out: &mut Vec<u8>) {
    // Writing into a vector cannot fail.
    let _ = out.write_fmt(arguments);
}
