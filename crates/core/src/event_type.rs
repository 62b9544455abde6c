//! Event types: 1 to 16 dot-separated segments of `[A-Za-z0-9_-]`, at most 200 bytes.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The most bytes in an event type.
pub const MAX_TYPE_BYTES: usize = 200;
/// The most segments in an event type or pattern.
pub const MAX_SEGMENTS: usize = 16;

/// The routing address of an event, such as `public.users.create`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventType(Arc<str>);

impl EventType {
    /// Checks the grammar; the error says which rule is broken.
    pub fn parse(text: &str) -> Result<Self> {
        check(text).map_err(|detail| Error::invalid("/type", detail))?;
        Ok(Self(text.into()))
    }

    /// Stands in while the other violations of an event without a valid type are collected.
    pub(crate) fn stand_in() -> Self {
        static STAND_IN: LazyLock<EventType> = LazyLock::new(|| EventType("_".into()));
        STAND_IN.clone()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments from left to right.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }
}

fn check(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("event type is empty".into());
    }
    if text.len() > MAX_TYPE_BYTES {
        return Err(format!(
            "event type is {} bytes long, at most {MAX_TYPE_BYTES} are allowed",
            text.len()
        ));
    }
    if text.split('.').count() > MAX_SEGMENTS {
        return Err(format!(
            "event type `{text}` has more than {MAX_SEGMENTS} segments"
        ));
    }
    for segment in text.split('.') {
        if segment.is_empty() {
            return Err(format!("event type `{text}` has an empty segment"));
        }
        if let Some(bad) = segment.chars().find(|c| !is_segment_char(*c)) {
            let bad = bad.escape_debug();
            return Err(format!(
                "event type `{}` contains `{bad}`; segments take A-Z a-z 0-9 _ and -",
                text.escape_debug()
            ));
        }
    }
    Ok(())
}

pub(crate) fn is_segment_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

impl FromStr for EventType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl Serialize for EventType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EventType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_kept() {
        for good in ["a", "public.users.create", "SOURCE_CREATED", "a-b.c_d.9"] {
            assert!(EventType::parse(good).is_ok(), "{good}");
        }
        let long = "a".repeat(201);
        let deep = ["a"; 17].join(".");
        for bad in [
            "", "a..b", ".a", "a.", "user*", "a b", "a.>", "ü", &long, &deep,
        ] {
            assert!(EventType::parse(bad).is_err(), "{bad}");
        }
    }
}
