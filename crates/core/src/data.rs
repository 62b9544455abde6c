//! An event's payload: bytes that are never re-serialised, and how CloudEvents JSON shows them.

use bytes::Bytes;

/// How the payload stands in the CloudEvents JSON format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DataKind {
    /// JSON text, shown as the `data` member as it is.
    Json = 1,
    /// UTF-8 text, shown as a JSON string.
    Text = 2,
    /// Anything else, shown as `data_base64`.
    Binary = 3,
}

/// The payload. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    kind: DataKind,
    bytes: Bytes,
}

impl Data {
    /// JSON text; the caller knows that it is well formed.
    pub fn json(bytes: impl Into<Bytes>) -> Self {
        Self {
            kind: DataKind::Json,
            bytes: bytes.into(),
        }
    }

    /// UTF-8 text.
    pub fn text(text: impl Into<String>) -> Self {
        Self {
            kind: DataKind::Text,
            bytes: Bytes::from(text.into()),
        }
    }

    /// Any bytes.
    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self {
            kind: DataKind::Binary,
            bytes: bytes.into(),
        }
    }

    /// Bytes of a known kind, as a backend stored them.
    pub fn from_parts(kind: DataKind, bytes: impl Into<Bytes>) -> Self {
        Self {
            kind,
            bytes: bytes.into(),
        }
    }

    /// How it stands in CloudEvents JSON.
    pub fn kind(&self) -> DataKind {
        self.kind
    }

    /// The untouched bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}
