//! CloudEvents 1.0 on the wire: the JSON format, JSON batches, HTTP binary mode, and the plain form
//! that people type by hand. Data bytes pass through untouched; everything that breaks a rule is
//! named at once, each with a JSON pointer. Not an HTTP client or server: headers come in as pairs.

pub(crate) mod attribute;
mod json;
pub(crate) mod members;
pub(crate) mod payload;
mod plain;
mod write;

pub mod http;
pub mod media_type;

pub use json::{from_json, from_json_batch};
pub use plain::{from_plain_json, from_plain_json_batch, is_array};
pub use write::{to_json, to_json_batch, write_json};

/// The only `specversion`.
pub const SPEC_VERSION: &str = "1.0";
/// The deepest nesting of arrays and objects inside JSON data.
pub const MAX_JSON_DEPTH: usize = 64;
/// The most events in one JSON batch.
pub const MAX_BATCH_EVENTS: usize = 1_000;

#[cfg(test)]
mod tests;
