//! The plain form: `{"type": .., "data": ..}` and whichever of id, source, key, subject, time and
//! the known extensions one cares to give. Members that nobody knows are violations, so that a
//! misspelt name is not silently lost.

use super::attribute::Form;
use super::json::{read, read_batch};
use super::members::utf8;
use crate::error::Result;
use crate::event::EventBuilder;

/// Reads one object; the caller fills in id and source where they are missing.
pub fn from_plain_json(json: &[u8]) -> Result<EventBuilder> {
    read(utf8(json)?, Form::Plain)
}

/// Reads an array of at most [`MAX_BATCH_EVENTS`](super::MAX_BATCH_EVENTS) objects; each answers
/// for itself.
pub fn from_plain_json_batch(json: &[u8]) -> Result<Vec<Result<EventBuilder>>> {
    read_batch(json, Form::Plain)
}

/// Whether the JSON text is an array, and so a batch.
pub fn is_array(json: &[u8]) -> bool {
    json.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[')
}
