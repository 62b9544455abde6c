//! The members of one JSON object or the items of one JSON array, borrowed as raw text, so that
//! nothing is parsed twice and data are never re-written. Repeated names are kept for the error.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};

/// More members than this mean that it is no event.
const MAX_MEMBERS: usize = 256;

/// The members of an object in the order of the text.
#[derive(Default)]
pub(crate) struct Members<'a> {
    pub(crate) list: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// Names that appear more than once.
    pub(crate) repeated: Vec<String>,
    overflow: bool,
}

impl<'a> Members<'a> {
    /// Parses the whole text as one object.
    pub(crate) fn parse(json: &'a str) -> Result<Self> {
        let members: Self = serde_json::from_str(json).map_err(|e| not_json(&e))?;
        if members.overflow {
            return Err(Error::invalid(
                "",
                format!("more than {MAX_MEMBERS} members"),
            ));
        }
        Ok(members)
    }

    fn take(&mut self, name: Cow<'a, str>, value: &'a RawValue) {
        if self.list.iter().any(|(n, _)| *n == name) {
            self.repeated.push(name.into_owned());
        } else if self.list.len() == MAX_MEMBERS {
            self.overflow = true;
        } else {
            self.list.push((name, value));
        }
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Object)
    }
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members {
            list: Vec::with_capacity(16),
            ..Members::default()
        };
        while let Some(Text(name)) = map.next_key()? {
            members.take(name, map.next_value()?);
        }
        Ok(members)
    }
}

/// The items of an array, at most `MAX`.
pub(crate) struct Items<'a, const MAX: usize>(Vec<&'a RawValue>, bool);

impl<'a, const MAX: usize> Items<'a, MAX> {
    /// Parses the whole text as one array.
    pub(crate) fn parse(json: &'a str) -> Result<Vec<&'a RawValue>> {
        let Self(items, overflow) = serde_json::from_str(json).map_err(|e| not_json(&e))?;
        if overflow {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("more than {MAX} events in one batch"),
            ));
        }
        Ok(items)
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Items<'de, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Array::<MAX>)
    }
}

struct Array<const MAX: usize>;

impl<'de, const MAX: usize> Visitor<'de> for Array<MAX> {
    type Value = Items<'de, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON array of events")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() < MAX {
            match seq.next_element()? {
                Some(item) => items.push(item),
                None => return Ok(Items(items, false)),
            }
        }
        let mut overflow = false;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            overflow = true;
        }
        Ok(Items(items, overflow))
    }
}

/// A string that borrows from the text where it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The text of a well-formed JSON string; none where its escapes make no Unicode characters, or
/// where it is no string.
pub(crate) fn text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(json).ok().map(|Text(text)| text)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// The text of `json`, or an error that says where it is not UTF-8.
pub(crate) fn utf8(json: &[u8]) -> Result<&str> {
    std::str::from_utf8(json)
        .map_err(|e| Error::invalid("", format!("invalid UTF-8 after byte {}", e.valid_up_to())))
}

fn not_json(error: &serde_json::Error) -> Error {
    Error::invalid("", format!("not the expected JSON: {error}"))
}
