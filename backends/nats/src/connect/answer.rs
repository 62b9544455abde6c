//! What JetStream answers, read from its JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fanfare_core::error::Result;
use fanfare_core::timestamp::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Failed;
use crate::error::{Refusal, unexpected};

/// What JetStream answers to a write.
#[derive(Debug, Deserialize)]
pub(crate) struct Written {
    #[serde(default)]
    pub(crate) seq: u64,
    #[serde(default)]
    pub(crate) duplicate: bool,
}

/// A message as JetStream keeps it.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) seq: u64,
    pub(crate) subject: String,
    pub(crate) time: Timestamp,
    pub(crate) data: Bytes,
}

#[derive(Deserialize)]
pub(super) struct Found {
    pub(super) message: Raw,
}

/// As the API writes a message.
#[derive(Deserialize)]
pub(super) struct Raw {
    seq: u64,
    subject: String,
    #[serde(default)]
    data: String,
    time: Timestamp,
}

impl Raw {
    pub(super) fn kept(self) -> Result<Kept> {
        let data = STANDARD.decode(self.data);
        Ok(Kept {
            seq: self.seq,
            subject: self.subject,
            time: self.time,
            data: data.map_err(|_| unexpected("a read"))?.into(),
        })
    }
}

#[derive(Deserialize)]
struct Refused {
    error: Refusal,
}

pub(super) fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<Result<T, Refusal>, Failed> {
    if let Ok(Refused { error }) = serde_json::from_slice(payload) {
        return Ok(Err(error));
    }
    let read = serde_json::from_slice(payload);
    read.map(Ok).map_err(|error| {
        tracing::debug!(%error, "an answer of nats cannot be read");
        Failed::NotSent(unexpected("a call").because(error))
    })
}
