//! Listing, redriving, discarding and mending dead letters. Each is a hash under `x:<number>`, found
//! by number in the order of death.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_core::data::{Data, DataKind};
use fanfare_core::dead_letter::{
    Acted, DeadBody, DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetters, Selection,
    fingerprint,
};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::position::Position;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use redis::Value;

use crate::backend::RedisBackend;
use crate::connect::Arguments;
use crate::error::unexpected;
use crate::frame::Slot;
use crate::place::from_hex;
use crate::scripts::{self, Script};

/// Letters read, redriven or discarded in one call.
const CALL: usize = 200;
/// How often an edit is tried again when others edit too.
const TRIES: usize = 20;

type Fields = HashMap<String, Vec<u8>>;

fn read(id: u64, fields: &Fields) -> Option<DeadLetter> {
    let text = |name: &str| std::str::from_utf8(fields.get(name)?).ok();
    let time = |name: &str| Some(Timestamp::from_nanos(text(name)?.parse().ok()?));
    let (reason, error) = (text("reason")?, text("error")?);
    let body = Bytes::from(fields.get("body")?.clone());
    Some(DeadLetter {
        id: id.to_string(),
        subscription: SubscriptionName::parse(text("sub")?).ok()?,
        position: Position(from_hex(text("pos")?)?),
        body: match Slot::decode(body) {
            Slot::Event(event) => DeadBody::Event(event),
            Slot::Raw(bytes) => DeadBody::Raw(bytes),
        },
        original: fields.get("original").and_then(|bytes| read_data(bytes)),
        reason: reason.to_owned(),
        error: error.to_owned(),
        attempts: text("attempts")?.parse().ok()?,
        first_failure: time("first")?,
        last_failure: time("last")?,
        fingerprint: fingerprint(reason, error),
    })
}

/// The kind in the first byte; nothing where the event had no data.
fn write_data(data: Option<&Data>) -> Vec<u8> {
    data.map_or_else(Vec::new, |data| {
        [&[data.kind() as u8], &data.bytes()[..]].concat()
    })
}

fn read_data(bytes: &[u8]) -> Option<Data> {
    let (kind, rest) = bytes.split_first()?;
    let kinds = [DataKind::Json, DataKind::Text, DataKind::Binary];
    let kind = kinds.into_iter().find(|known| *known as u8 == *kind)?;
    Some(Data::from_parts(kind, rest.to_vec()))
}

fn gone(id: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("there is no dead letter `{}`", id.escape_debug()),
    )
}

impl RedisBackend {
    async fn letters(&self, ids: &[u64]) -> Result<Vec<DeadLetter>> {
        let mut letters = Vec::with_capacity(ids.len());
        for some in ids.chunks(CALL) {
            let mut pipeline = redis::pipe();
            for id in some {
                pipeline
                    .cmd("HGETALL")
                    .arg(self.wire.key(&format!("x:{id}")));
            }
            let all: Vec<Fields> = self.wire.run_all(&pipeline).await?;
            letters.extend(
                some.iter()
                    .zip(&all)
                    .filter_map(|(id, fields)| read(*id, fields)),
            );
        }
        Ok(letters)
    }

    /// The next ids after `after`, oldest first.
    async fn ids_after(&self, after: u64) -> Result<Vec<u64>> {
        let mut range = redis::cmd("ZRANGEBYSCORE");
        range
            .arg(self.wire.key("dead"))
            .arg(format!("({after}"))
            .arg("+inf");
        range.arg("LIMIT").arg(0).arg(CALL);
        self.wire.run(&range).await
    }

    /// At most `most` selected letters, oldest first.
    async fn selected(&self, selection: &Selection, most: usize) -> Result<Vec<DeadLetter>> {
        let filter = match selection {
            Selection::Ids(ids) => {
                let mut ids: Vec<u64> = ids.iter().flat_map(|id| id.parse()).collect();
                ids.sort_unstable();
                ids.dedup();
                let mut letters = self.letters(&ids).await?;
                letters.truncate(most);
                return Ok(letters);
            }
            Selection::Filter(filter) => filter,
        };
        let (mut after, mut found) = (0, Vec::new());
        while found.len() < most {
            let ids = self.ids_after(after).await?;
            let Some(last) = ids.last() else {
                break;
            };
            after = *last;
            let letters = self.letters(&ids).await?;
            found.extend(letters.into_iter().filter(|letter| filter.matches(letter)));
        }
        found.truncate(most);
        Ok(found)
    }

    async fn act(&self, script: &Script, arguments: &Arguments) -> Result<u64> {
        match self.wire.script(script, arguments).await? {
            Value::Int(done) => Ok(u64::try_from(done).unwrap_or(0)),
            _ => Err(unexpected("acting on dead letters")),
        }
    }
}

#[async_trait]
impl DeadLetters for RedisBackend {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<DeadLetterPage> {
        self.check_open()?;
        let mut after = match after {
            None => 0,
            Some(text) => text
                .parse::<u64>()
                .map_err(|_| Error::invalid("/cursor", "not a cursor of ours"))?,
        };
        let mut page = DeadLetterPage::default();
        loop {
            let ids = self.ids_after(after).await?;
            let Some(last) = ids.last() else {
                return Ok(page);
            };
            after = *last;
            for letter in self.letters(&ids).await? {
                if !filter.matches(&letter) {
                    continue;
                }
                if page.items.len() == limit {
                    page.next = page.items.last().map(|letter| letter.id.clone());
                    return Ok(page);
                }
                page.items.push(letter);
            }
        }
    }

    async fn get(&self, id: &str) -> Result<DeadLetter> {
        self.check_open()?;
        let number = id.parse().map_err(|_| gone(id))?;
        self.letters(&[number]).await?.pop().ok_or_else(|| gone(id))
    }

    async fn count(&self, selection: &Selection) -> Result<u64> {
        self.check_open()?;
        Ok(self.selected(selection, usize::MAX).await?.len() as u64)
    }

    async fn redrive(&self, selection: &Selection, limit: usize) -> Result<Acted> {
        self.check_open()?;
        let selected = self.selected(selection, usize::MAX).await?;
        let matched = selected.len() as u64;
        let meant: Vec<_> = selected.into_iter().take(limit).collect();
        let mut done = 0;
        for some in meant.chunks(CALL) {
            let mut arguments = Arguments::default();
            for letter in some {
                let slot = match &letter.body {
                    DeadBody::Event(event) => Slot::Event(event.clone()),
                    DeadBody::Raw(bytes) => Slot::Raw(bytes.clone()),
                };
                let key = slot
                    .event()
                    .and_then(|event| event.key())
                    .unwrap_or_default();
                let ordered = self.is_ordered(&letter.subscription).await?;
                arguments = arguments
                    .text(&letter.id)
                    .text(if ordered { key } else { "" });
                arguments = arguments.bytes(slot.encode());
            }
            done += self.act(&scripts::REDRIVE, &arguments).await?;
        }
        Ok(Acted { matched, done })
    }

    async fn discard(&self, selection: &Selection) -> Result<Acted> {
        self.check_open()?;
        let selected = self.selected(selection, usize::MAX).await?;
        let mut done = 0;
        for some in selected.chunks(CALL) {
            let mut arguments = Arguments::default();
            for letter in some {
                arguments = arguments.text(&letter.id);
            }
            done += self.act(&scripts::DISCARD, &arguments).await?;
        }
        Ok(Acted {
            matched: selected.len() as u64,
            done,
        })
    }

    async fn replace(&self, id: &str, data: Data) -> Result<DeadLetter> {
        self.check_open()?;
        for _ in 0..TRIES {
            let letter = self.get(id).await?;
            let DeadBody::Event(event) = &letter.body else {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "undecodable input has no data to replace",
                ));
            };
            let edited = event.to_builder().data(data.clone()).build()?;
            let arguments = Arguments::default()
                .text(id)
                .bytes(Slot::Event(event.clone()).encode())
                .bytes(Slot::Event(edited).encode())
                .bytes(write_data(event.data()));
            match self.wire.script(&scripts::REPLACE, &arguments).await? {
                Value::BulkString(done) if done == b"changed" => return self.get(id).await,
                Value::BulkString(done) if done == b"gone" => return Err(gone(id)),
                _ => {}
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "the dead letter was edited by others all the time",
        ))
    }
}
