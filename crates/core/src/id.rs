//! Event ids: any string that CloudEvents allows, stored in 16 bytes where it is a canonical UUID.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};

/// The longest id, in bytes.
pub const MAX_ID_BYTES: usize = 1024;

/// The `id` of an event. Two events with the same source and id are the same event.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventId {
    /// A canonical, lower-case, hyphenated UUID.
    Uuid(Uuid),
    /// Every other string, unchanged.
    Text(Box<str>),
}

impl EventId {
    /// A new UUIDv7: ids made later sort later, which keeps indexes small and fast.
    pub fn generate() -> Self {
        Self::Uuid(Uuid::now_v7())
    }

    /// The id made of `parts` by UUIDv5, the same for the same parts.
    pub fn derived(parts: &[&str]) -> Self {
        // Length-prefixed, so that ("ab","c") and ("a","bc") differ.
        let mut name = String::new();
        for part in parts {
            name.push_str(&part.len().to_string());
            name.push(':');
            name.push_str(part);
        }
        Self::Uuid(Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()))
    }

    /// Takes any non-empty string of at most [`MAX_ID_BYTES`] without control characters.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::invalid("/id", "id is empty"));
        }
        if text.len() > MAX_ID_BYTES {
            return Err(Error::invalid(
                "/id",
                format!("id is longer than {MAX_ID_BYTES} bytes"),
            ));
        }
        if text.chars().any(char::is_control) {
            return Err(Error::invalid("/id", "id contains a control character"));
        }
        Ok(match Self::canonical(text) {
            Some(uuid) => Self::Uuid(uuid),
            None => Self::Text(text.into()),
        })
    }

    fn canonical(text: &str) -> Option<Uuid> {
        let shape = text.len() == 36 && !text.bytes().any(|b| b.is_ascii_uppercase());
        if shape {
            Uuid::try_parse(text).ok()
        } else {
            None
        }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => uuid.hyphenated().fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl FromStr for EventId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl Serialize for EventId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_id_comes_back_unchanged() {
        for text in [
            "0190a5e4-3f5b-7d2a-9c41-1f2e3d4c5b6a",
            "0190A5E4-3F5B-7D2A-9C41-1F2E3D4C5B6A",
            "{0190a5e4-3f5b-7d2a-9c41-1f2e3d4c5b6a}",
            "0190a5e43f5b7d2a9c411f2e3d4c5b6a",
            "order 7/ü",
            "1",
        ] {
            assert_eq!(EventId::parse(text).unwrap().to_string(), text);
        }
        assert!(EventId::parse("").is_err());
        assert!(EventId::parse("a\nb").is_err());
    }
}
