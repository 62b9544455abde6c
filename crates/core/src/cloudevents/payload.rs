//! How data stand on the wire, decided by their media type alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::members::text;
use super::{MAX_JSON_DEPTH, media_type};
use crate::data::{Data, DataKind};

/// Reads the member `data`: a JSON value as it is, or the string that shows text.
pub(crate) fn from_member(raw: &RawValue, content_type: Option<&str>) -> Result<Data, String> {
    let json = raw.get();
    if content_type.is_none_or(media_type::is_json) {
        check_depth(json)?;
        return Ok(Data::json(Bytes::copy_from_slice(json.as_bytes())));
    }
    match text(json) {
        Some(text) => Ok(Data::text(text)),
        None => Err("data must be a string because datacontenttype is not JSON".into()),
    }
}

/// Reads the member `data_base64`.
pub(crate) fn from_base64(text: &str) -> Result<Data, String> {
    match STANDARD.decode(text) {
        Ok(bytes) => Ok(Data::binary(bytes)),
        Err(error) => Err(format!("data_base64 is not base64: {error}")),
    }
}

/// Reads a message body; empty means that there are no data.
pub(crate) fn from_body(body: &[u8], content_type: Option<&str>) -> Result<Option<Data>, String> {
    if body.is_empty() {
        return Ok(None);
    }
    let bytes = Bytes::copy_from_slice(body);
    let declared_json = content_type.is_some_and(media_type::is_json);
    if declared_json || content_type.is_none() {
        match check_json(body) {
            Ok(()) => return Ok(Some(Data::json(bytes))),
            Err(detail) if declared_json => return Err(detail),
            Err(_) => return Ok(Some(Data::binary(bytes))),
        }
    }
    let is_text =
        content_type.is_some_and(media_type::is_text) && std::str::from_utf8(body).is_ok();
    let kind = if is_text {
        DataKind::Text
    } else {
        DataKind::Binary
    };
    Ok(Some(Data::from_parts(kind, bytes)))
}

/// How data of an event with this media type stand in JSON so that they are read back as the same
/// bytes: JSON only where the media type says so, a string only where it does not.
pub(crate) fn kind_in_json(data: &Data, content_type: Option<&str>) -> DataKind {
    let is_json = content_type.is_none_or(media_type::is_json);
    match data.kind() {
        DataKind::Json if is_json => DataKind::Json,
        DataKind::Text if !is_json => DataKind::Text,
        _ => DataKind::Binary,
    }
}

fn check_json(body: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(body)
        .map_err(|e| format!("data are not UTF-8 after byte {}", e.valid_up_to()))?;
    serde_json::from_str::<&RawValue>(text).map_err(|e| format!("data are not JSON: {e}"))?;
    check_depth(text)
}

/// Counts brackets outside strings; the text is well-formed JSON.
fn check_depth(json: &str) -> Result<(), String> {
    let mut depth = 0_usize;
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_JSON_DEPTH {
                    return Err(format!("data nest deeper than {MAX_JSON_DEPTH} levels"));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    Ok(())
}

fn skip_string(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}
