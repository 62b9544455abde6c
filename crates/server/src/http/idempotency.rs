//! `Idempotency-Key`: it becomes the id of events that have none, so that a repeated request meets
//! duplicate detection. Nothing is remembered here.

use std::borrow::Cow;

use axum::http::HeaderMap;
use fanfare::core::id::EventId;
use serde_json::value::RawValue;

use crate::http::body;
use crate::http::object::Object;
use crate::http::problem::{Code, Problem};

/// The longest key, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// The key of a request.
#[derive(Debug)]
pub(crate) struct Key(String);

impl Key {
    /// Reads the header, without the quotes that its draft standard asks for.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let Some(text) = body::text(headers, "idempotency-key")? else {
            return Ok(None);
        };
        let key = text
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .unwrap_or(text);
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            let detail = format!("Idempotency-Key must be 1 to {MAX_KEY_BYTES} characters long");
            return Err(Problem::new(Code::Malformed, detail));
        }
        Ok(Some(Self(key.to_owned())))
    }

    /// The same for the same key and place in the batch.
    pub(crate) fn id(&self, index: usize) -> EventId {
        EventId::derived(&["idempotency-key", &self.0, &index.to_string()])
    }

    /// The body of one event, or an array of such, where each has an id; the body is JSON.
    pub(crate) fn fill_in<'b>(&self, body: &'b [u8]) -> Cow<'b, [u8]> {
        if body::is_array(body)
            && let Ok(items) = serde_json::from_slice::<Vec<&RawValue>>(body)
        {
            let items = items.iter().enumerate();
            let items: Vec<Cow<'_, str>> = items
                .map(|(index, item)| self.with_id(item, index))
                .collect();
            return Cow::Owned(format!("[{}]", items.join(",")).into_bytes());
        }
        match serde_json::from_slice::<&RawValue>(body) {
            Ok(one) => Cow::Owned(self.with_id(one, 0).into_owned().into_bytes()),
            Err(_) => Cow::Borrowed(body),
        }
    }

    /// What is no object stays as it is, for the codec to complain about.
    fn with_id<'r>(&self, event: &'r RawValue, index: usize) -> Cow<'r, str> {
        let lacks_id = Object::within("", event).is_ok_and(|mut object| object.raw("id").is_none());
        match event.get().strip_prefix('{') {
            Some(rest) if lacks_id => {
                let comma = if rest.trim_start().starts_with('}') {
                    ""
                } else {
                    ","
                };
                Cow::Owned(format!("{{\"id\":\"{}\"{comma}{rest}", self.id(index)))
            }
            _ => Cow::Borrowed(event.get()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_events_without_an_id_get_one() {
        let key = Key("k".into());
        let read = |body: &str| -> serde_json::Value {
            serde_json::from_slice(&key.fill_in(body.as_bytes())).unwrap()
        };
        let id = |index: usize| serde_json::json!(key.id(index).to_string());
        assert_eq!(read(r#" {"type":"a"}"#)["id"], id(0));
        assert_eq!(read("{ }"), serde_json::json!({ "id": id(0) }));
        assert_eq!(read(r#"{"id":"own"}"#)["id"], "own");
        let batch = read(r#"[{"type":"a"},7,{"id":"own"},{"data":{ "id": 1 }}]"#);
        assert_eq!(batch[0]["id"], id(0));
        assert_eq!(batch[1], 7);
        assert_eq!(batch[2]["id"], "own");
        assert_eq!(batch[3]["id"], id(3));
        assert_eq!(read("[]"), serde_json::json!([]));
    }

    #[test]
    fn data_keep_their_bytes() {
        let key = Key("k".into());
        let filled = key.fill_in(br#"{"data":{ "b":1.0, "a":2 }}"#);
        let text = std::str::from_utf8(&filled).unwrap();
        assert!(text.ends_with(r#","data":{ "b":1.0, "a":2 }}"#), "{text}");
    }
}
