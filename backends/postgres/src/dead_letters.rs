//! Dead letters as PostgreSQL keeps them: each is a row with the event's bytes of its own, numbered in
//! the order of death. What is done with them is the fleet crate's.

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_core::dead_letter::{DeadLetter, DeadLetterFilter, fingerprint};
use fanfare_core::error::Result;
use fanfare_core::position::Position;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use fanfare_fleet::{DeadLetterStore, Edit, Redriven, Replaced, Slot, read_data};
use tokio_postgres::Row;

use crate::connect::Database;
use crate::consume::text;
use crate::error::unexpected;
use crate::row::get;
use crate::subscription::{self, wide};

#[async_trait]
impl DeadLetterStore for Database {
    async fn letters(&self, numbers: &[u64]) -> Result<Vec<DeadLetter>> {
        let rows = self
            .read(
                "SELECT id, name, pos, reason, error, attempts, first, last, body, original FROM ff.dead_letter
                 WHERE id = ANY ($1) ORDER BY id",
                &[&all(numbers)],
            )
            .await?;
        rows.iter().map(read).collect()
    }

    async fn letters_after(
        &self,
        filter: &DeadLetterFilter,
        after: u64,
        most: usize,
    ) -> Result<Option<(Vec<DeadLetter>, u64)>> {
        let subscription = filter.subscription.as_ref().map(SubscriptionName::as_str);
        let rows = self
            .read(
                "SELECT id, name, pos, reason, error, attempts, first, last, body, original FROM ff.dead_letter
                 WHERE id > $1 AND ($2::text IS NULL OR name = $2) AND ($3::text IS NULL OR reason = $3)
                 ORDER BY id LIMIT $4",
                &[
                    &id(after),
                    &subscription,
                    &filter.reason.as_deref().map(text),
                    &i64::try_from(most).unwrap_or(i64::MAX),
                ],
            )
            .await?;
        let Some(last) = rows.last() else {
            return Ok(None);
        };
        let last: i64 = get(last, 0)?;
        let mut letters = rows.iter().map(read).collect::<Result<Vec<_>>>()?;
        letters.retain(|letter| filter.matches(letter));
        Ok(Some((letters, last.cast_unsigned())))
    }

    async fn is_ordered(&self, name: &SubscriptionName) -> Result<bool> {
        let stored = subscription::load(self, name).await?;
        Ok(stored.is_some_and(|stored| stored.spec.ordered))
    }

    async fn redrive(&self, letters: Vec<Redriven>) -> Result<u64> {
        let (mut ids, mut keys, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
        for letter in letters {
            ids.push(id(letter.number));
            keys.push(text(&letter.key).into_owned());
            bodies.push(letter.body);
        }
        let done: i64 = self
            .one("SELECT ff.redrive($1, $2, $3)", &[&ids, &keys, &bodies])
            .await?;
        Ok(done.cast_unsigned())
    }

    async fn discard(&self, numbers: &[u64]) -> Result<u64> {
        let done: i64 = self.one("SELECT ff.discard($1)", &[&all(numbers)]).await?;
        Ok(done.cast_unsigned())
    }

    async fn replace(&self, number: u64, edit: Edit) -> Result<Replaced> {
        let done: String = self
            .one(
                "SELECT ff.replace_body($1, $2, $3, $4)",
                &[&id(number), &edit.before, &edit.after, &edit.original],
            )
            .await?;
        Ok(match done.as_str() {
            "changed" => Replaced::Done,
            "gone" => Replaced::Gone,
            _ => Replaced::Stale,
        })
    }
}

/// A number that no letter of ours has is one that none ever gets.
fn id(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn all(numbers: &[u64]) -> Vec<i64> {
    numbers.iter().map(|number| id(*number)).collect()
}

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
        body: Slot::decode(Bytes::from(body)).into(),
        original: original.and_then(read_data),
        reason: reason.to_owned(),
        error: error.to_owned(),
        attempts: u32::try_from(row.try_get::<_, i32>(5).ok()?).ok()?,
        first_failure: time(6)?,
        last_failure: time(7)?,
        fingerprint: fingerprint(reason, error),
    })
}
