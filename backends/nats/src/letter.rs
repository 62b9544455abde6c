//! The message of a dead letter: why and when, and the event as it was to be delivered. Whether the
//! letter is still there stands in the subscription's record, not here. Version 1 is frozen.
//!
//! ```text
//! version 1 | length, head as JSON | length, body | original, where somebody edited the data
//! ```

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use fanfare_core::dead_letter::{DeadBody, DeadLetter, fingerprint};
use fanfare_core::error::Result;
use fanfare_core::position::Position;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::changes::NewDead;
use fanfare_fleet::Slot;
use serde::{Deserialize, Serialize};

use crate::error::unexpected;
use crate::record::{Dead, LetterKey, letter_id};

const VERSION: u8 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Story {
    reason: String,
    error: String,
    attempts: u32,
    first_failure: Timestamp,
    last_failure: Timestamp,
}

/// What the message holds.
#[derive(Debug)]
pub(crate) struct Letter {
    story: Story,
    /// What was to be delivered.
    pub(crate) body: Slot,
    /// Before somebody edited it.
    pub(crate) original: Option<Slot>,
}

impl Letter {
    /// Of what the cursor gave up.
    pub(crate) fn new(dead: NewDead, body: Slot) -> Self {
        let story = Story {
            reason: dead.reason,
            error: dead.error,
            attempts: dead.attempts,
            first_failure: dead.first_failure,
            last_failure: dead.last_failure,
        };
        Self {
            story,
            body,
            original: None,
        }
    }

    pub(crate) fn encode(&self) -> Result<Bytes> {
        let head = serde_json::to_vec(&self.story);
        let head = head.map_err(|e| unexpected("a dead letter").because(e))?;
        let body = self.body.encode();
        let mut out = BytesMut::with_capacity(head.len() + body.len() + 9);
        out.put_u8(VERSION);
        for part in [&head, &body] {
            out.put_u32(u32::try_from(part.len()).unwrap_or(u32::MAX));
            out.put_slice(part);
        }
        if let Some(original) = &self.original {
            out.put_slice(&original.encode());
        }
        Ok(out.freeze())
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self> {
        read(bytes).ok_or_else(|| unexpected("a read of a dead letter"))
    }

    /// As the contract has it.
    pub(crate) fn told(self, name: &SubscriptionName, key: LetterKey, dead: Dead) -> DeadLetter {
        let body = match self.body {
            Slot::Event(event) => DeadBody::Event(event),
            Slot::Raw(bytes) => DeadBody::Raw(bytes),
        };
        let original = self.original.as_ref().and_then(Slot::event);
        DeadLetter {
            id: letter_id(name, key, dead),
            subscription: name.clone(),
            position: Position(key.0.into()),
            body,
            original: original.and_then(|event| event.data().cloned()),
            fingerprint: fingerprint(&self.story.reason, &self.story.error),
            reason: self.story.reason,
            error: self.story.error,
            attempts: self.story.attempts,
            first_failure: self.story.first_failure,
            last_failure: self.story.last_failure,
        }
    }
}

fn read(mut bytes: Bytes) -> Option<Letter> {
    if bytes.try_get_u8().ok()? != VERSION {
        return None;
    }
    let mut part = || {
        let length = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
        (bytes.len() >= length).then(|| bytes.split_to(length))
    };
    let (head, body) = (part()?, part()?);
    Some(Letter {
        story: serde_json::from_slice(&head).ok()?,
        body: Slot::decode(body),
        original: (!bytes.is_empty()).then(|| Slot::decode(bytes)),
    })
}
