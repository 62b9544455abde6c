//! Dead letters as messages: burying, and reading a queue that holds them without emptying it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fanfare_core::data::{Data, DataKind};
use fanfare_core::dead_letter::{DeadBody, DeadLetter, fingerprint};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use lapin::BasicProperties;
use lapin::types::FieldTable;
use serde::{Deserialize, Serialize};

use crate::backend::Stream;
use crate::connect::Pen;
use crate::desk::Item;
use crate::sift::{Sift, Taken};
use crate::wire::{self, Note};

/// The most letters looked at in one go.
const MAX_LETTERS: usize = 50_000;

/// What a letter says beside its event.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Story {
    id: String,
    subscription: SubscriptionName,
    position: String,
    /// Undecodable: the message's bytes are no event's data.
    raw: bool,
    original: Option<(u8, String)>,
    reason: String,
    error: String,
    attempts: u32,
    first_nanos: String,
    last_nanos: String,
}

impl Stream {
    /// Keeps a delivery that was given up: reason, error, attempts made.
    pub(crate) async fn bury(
        &self,
        pen: &Pen,
        name: &SubscriptionName,
        item: &Item,
        (reason, error, attempts): (&str, &str, u32),
    ) -> Result<()> {
        let now = self.now();
        self.keep(
            pen,
            &DeadLetter {
                id: self.place().to_string(),
                subscription: name.clone(),
                position: item.note.position,
                body: DeadBody::Event(item.event.clone()),
                original: None,
                fingerprint: fingerprint(reason, error),
                reason: reason.into(),
                error: error.into(),
                attempts,
                first_failure: item.note.first_failure.unwrap_or(now),
                last_failure: now,
            },
        )
        .await
    }

    /// Keeps what is no event, as it came.
    pub(crate) async fn bury_raw(
        &self,
        pen: &Pen,
        name: &SubscriptionName,
        message: lapin::message::Delivery,
        error: String,
    ) -> Result<()> {
        let (now, place) = (self.now(), self.place());
        self.keep(
            pen,
            &DeadLetter {
                id: place.to_string(),
                subscription: name.clone(),
                position: place,
                body: DeadBody::Raw(message.data.into()),
                original: None,
                fingerprint: fingerprint("undecodable", &error),
                reason: "undecodable".into(),
                error,
                attempts: 0,
                first_failure: now,
                last_failure: now,
            },
        )
        .await
    }

    /// Writes a letter, confirmed.
    pub(crate) async fn keep(&self, pen: &Pen, letter: &DeadLetter) -> Result<()> {
        let story = Story {
            id: letter.id.clone(),
            subscription: letter.subscription.clone(),
            position: letter.position.to_string(),
            raw: letter.body.event().is_none(),
            original: letter
                .original
                .as_ref()
                .map(|data| (data.kind() as u8, STANDARD.encode(data.bytes()))),
            reason: letter.reason.clone(),
            error: letter.error.clone(),
            attempts: letter.attempts,
            first_nanos: letter.first_failure.as_nanos().to_string(),
            last_nanos: letter.last_failure.as_nanos().to_string(),
        };
        let internal = |e| Error::new(ErrorKind::Internal, "a letter is not written").because(e);
        let story = serde_json::to_string(&story).map_err(internal)?;
        let (properties, data) = match &letter.body {
            DeadBody::Event(event) => {
                let note = Note {
                    position: letter.position,
                    ..Note::default()
                };
                (wire::properties(event, &note), event.bytes().to_vec())
            }
            DeadBody::Raw(bytes) => (wire::plain(), bytes.to_vec()),
        };
        let mut headers = properties
            .headers()
            .clone()
            .unwrap_or_else(FieldTable::default);
        headers.insert(wire::LETTER.into(), wire::text(&story));
        let properties = properties.with_headers(headers);
        let queue = self.dead_of(&letter.subscription);
        self.line.write(pen, &queue, &data, properties).await
    }

    /// Every letter of a subscription that can be read, oldest first, in hand.
    pub(crate) async fn letters(
        &self,
        name: &SubscriptionName,
    ) -> Result<(Sift<'_>, Vec<(Taken, DeadLetter)>)> {
        let mut sift = Sift::open(self, self.dead_of(name)).await?;
        let mut letters = Vec::new();
        while letters.len() < MAX_LETTERS {
            let Some((taken, message)) = sift.next().await? else {
                break;
            };
            match read(&message.properties, message.data) {
                Ok(letter) => letters.push((taken, letter)),
                Err(error) => tracing::warn!(%error, "a dead letter that is none"),
            }
        }
        letters.sort_by_key(|(_, letter)| letter.id.parse::<u128>().unwrap_or(0));
        Ok((sift, letters))
    }
}

fn read(properties: &BasicProperties, data: Vec<u8>) -> Result<DeadLetter> {
    let corrupt = || {
        Error::new(
            ErrorKind::Corrupt,
            "a message among the dead letters is none",
        )
    };
    let story = wire::header(properties, wire::LETTER).ok_or_else(corrupt)?;
    let story: Story = serde_json::from_str(story).map_err(|e| corrupt().because(e))?;
    let time = |nanos: &str| {
        nanos
            .parse()
            .map(Timestamp::from_nanos)
            .map_err(|_| corrupt())
    };
    let body = if story.raw {
        DeadBody::Raw(Bytes::from(data))
    } else {
        DeadBody::Event(wire::event(properties, data)?)
    };
    let original = story.original.map(|(kind, bytes)| {
        let kind = match kind {
            1 => DataKind::Json,
            2 => DataKind::Text,
            _ => DataKind::Binary,
        };
        let bytes = STANDARD.decode(bytes).map_err(|_| corrupt())?;
        Ok(Data::from_parts(kind, bytes))
    });
    Ok(DeadLetter {
        position: story.position.parse()?,
        body,
        original: original.transpose()?,
        fingerprint: fingerprint(&story.reason, &story.error),
        first_failure: time(&story.first_nanos)?,
        last_failure: time(&story.last_nanos)?,
        id: story.id,
        subscription: story.subscription,
        reason: story.reason,
        error: story.error,
        attempts: story.attempts,
    })
}
