//! Listing, redriving, discarding and mending dead letters. Each is a row with the event's bytes of its
//! own, numbered in the order of death.

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
use fanfare_fleet::Slot;
use tokio_postgres::Row;

use crate::backend::PostgresBackend;
use crate::consume::text;
use crate::error::unexpected;
use crate::subscription::{self, wide};

/// Letters read, redriven or discarded in one call.
const CALL: usize = 200;
/// How often an edit is tried again when others edit too.
const TRIES: usize = 20;

fn read(row: &Row) -> Result<DeadLetter> {
    parse(row).ok_or_else(|| unexpected("reading dead letters"))
}

fn parse(row: &Row) -> Option<DeadLetter> {
    let time = |at: usize| {
        let nanos: i64 = row.try_get(at).ok()?;
        Some(Timestamp::from_nanos(i128::from(nanos)))
    };
    let (reason, error): (&str, &str) = (row.try_get(3).ok()?, row.try_get(4).ok()?);
    let body: Vec<u8> = row.try_get(8).ok()?;
    let original: Option<&[u8]> = row.try_get(9).ok()?;
    Some(DeadLetter {
        id: row.try_get::<_, i64>(0).ok()?.to_string(),
        subscription: SubscriptionName::parse(row.try_get(1).ok()?).ok()?,
        position: Position(wide(row.try_get(2).ok()?)),
        body: match Slot::decode(Bytes::from(body)) {
            Slot::Event(event) => DeadBody::Event(event),
            Slot::Raw(bytes) => DeadBody::Raw(bytes),
        },
        original: original.and_then(read_data),
        reason: reason.to_owned(),
        error: error.to_owned(),
        attempts: u32::try_from(row.try_get::<_, i32>(5).ok()?).ok()?,
        first_failure: time(6)?,
        last_failure: time(7)?,
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

fn number(letter: &DeadLetter) -> i64 {
    letter.id.parse().unwrap_or(0)
}

impl PostgresBackend {
    /// The next letters after `after` that match, among a bounded number; none at the end.
    async fn letters_after(
        &self,
        filter: &DeadLetterFilter,
        after: i64,
    ) -> Result<Option<(Vec<DeadLetter>, i64)>> {
        let subscription = filter.subscription.as_ref().map(SubscriptionName::as_str);
        let rows = self
            .database
            .read(
                "SELECT id, name, pos, reason, error, attempts, first, last, body, original FROM ff.dead_letter
                 WHERE id > $1 AND ($2::text IS NULL OR name = $2) AND ($3::text IS NULL OR reason = $3)
                 ORDER BY id LIMIT $4",
                &[
                    &after,
                    &subscription,
                    &filter.reason.as_deref().map(text),
                    &i64::try_from(CALL).unwrap_or(i64::MAX),
                ],
            )
            .await?;
        let Some(last) = rows.last() else {
            return Ok(None);
        };
        let last = last.get(0);
        let mut letters = rows.iter().map(read).collect::<Result<Vec<_>>>()?;
        letters.retain(|letter| filter.matches(letter));
        Ok(Some((letters, last)))
    }

    async fn letters(&self, ids: &[i64]) -> Result<Vec<DeadLetter>> {
        let rows = self
            .database
            .read(
                "SELECT id, name, pos, reason, error, attempts, first, last, body, original FROM ff.dead_letter
                 WHERE id = ANY ($1) ORDER BY id",
                &[&ids],
            )
            .await?;
        rows.iter().map(read).collect()
    }

    /// The ids of at most `most` selected letters, oldest first.
    async fn selected(&self, selection: &Selection, most: usize) -> Result<Vec<i64>> {
        let filter = match selection {
            Selection::Ids(ids) => {
                let ids: Vec<i64> = ids.iter().flat_map(|id| id.parse()).collect();
                let mut found = Vec::new();
                for some in ids.chunks(CALL) {
                    found.extend(self.letters(some).await?.iter().map(number));
                }
                found.sort_unstable();
                found.dedup();
                found.truncate(most);
                return Ok(found);
            }
            Selection::Filter(filter) => filter,
        };
        let (mut after, mut found) = (0, Vec::new());
        while found.len() < most
            && let Some((letters, last)) = self.letters_after(filter, after).await?
        {
            after = last;
            found.extend(letters.iter().map(number));
        }
        found.truncate(most);
        Ok(found)
    }

    async fn redrive_some(&self, ids: &[i64]) -> Result<u64> {
        let letters = self.letters(ids).await?;
        let (mut numbers, mut keys, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
        let mut ordered = std::collections::BTreeMap::new();
        for letter in &letters {
            let name = &letter.subscription;
            if !ordered.contains_key(name) {
                let stored = subscription::load(&self.database, name).await?;
                ordered.insert(name, stored.is_some_and(|stored| stored.spec.ordered));
            }
            let slot = match &letter.body {
                DeadBody::Event(event) => Slot::Event(event.clone()),
                DeadBody::Raw(bytes) => Slot::Raw(bytes.clone()),
            };
            let key = slot.event().and_then(|event| event.key());
            let key = key.filter(|_| ordered.get(name) == Some(&true));
            numbers.push(number(letter));
            keys.push(text(key.unwrap_or_default()).into_owned());
            bodies.push(slot.encode());
        }
        let done: i64 = self
            .one("SELECT ff.redrive($1, $2, $3)", &[&numbers, &keys, &bodies])
            .await?;
        Ok(done.cast_unsigned())
    }
}

#[async_trait]
impl DeadLetters for PostgresBackend {
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
                .parse::<i64>()
                .map_err(|_| Error::invalid("/cursor", "not a cursor of ours"))?,
        };
        let mut page = DeadLetterPage::default();
        while let Some((letters, last)) = self.letters_after(filter, after).await? {
            after = last;
            for letter in letters {
                if page.items.len() == limit {
                    page.next = page.items.last().map(|letter| letter.id.clone());
                    return Ok(page);
                }
                page.items.push(letter);
            }
        }
        Ok(page)
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
        let mut done = 0;
        for some in selected
            .get(..limit.min(selected.len()))
            .unwrap_or_default()
            .chunks(CALL)
        {
            done += self.redrive_some(some).await?;
        }
        Ok(Acted {
            matched: selected.len() as u64,
            done,
        })
    }

    async fn discard(&self, selection: &Selection) -> Result<Acted> {
        self.check_open()?;
        let selected = self.selected(selection, usize::MAX).await?;
        let mut done = 0;
        for some in selected.chunks(CALL) {
            let gone: i64 = self.one("SELECT ff.discard($1)", &[&some]).await?;
            done += gone.cast_unsigned();
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
            let done: String = self
                .one(
                    "SELECT ff.replace_body($1, $2, $3, $4)",
                    &[
                        &number(&letter),
                        &Slot::Event(event.clone()).encode(),
                        &Slot::Event(edited).encode(),
                        &write_data(event.data()),
                    ],
                )
                .await?;
            match done.as_str() {
                "changed" => return self.get(id).await,
                "gone" => return Err(gone(id)),
                _ => {}
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "the dead letter was edited by others all the time",
        ))
    }
}
