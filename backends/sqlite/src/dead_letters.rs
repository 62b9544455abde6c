//! Dead letters: whole events with their story. A letter stays a row until what was asked of it is in
//! the cursor, so that no crash in between loses or doubles a delivery:
//!
//! ```text
//! DEAD --redrive--> REDRIVEN (delivered from the letter) --settled--> gone, or DEAD again as a new one
//!   `---discard---> DISCARDED --------------------------- counted --> gone
//! ```

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_core::data::{Data, DataKind};
use fanfare_core::dead_letter::{
    Acted, DeadBody, DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetters, Selection,
};
use fanfare_core::timestamp::Timestamp;
use fanfare_core::{Error, ErrorKind, Result, record};
use rusqlite::{Connection, OptionalExtension};

use crate::backend::SqliteBackend;
use crate::error;
use crate::names::Names;
use crate::row::{self, unsigned};
use crate::stream::Stream;
use crate::subscription::Live;
use crate::writer::job::Act;

const DEAD: i64 = 0;
const REDRIVEN: i64 = 1;
const DISCARDED: i64 = 2;

/// The most letters of a page.
const PAGE: usize = 1_000;
/// How many letters one read looks at, at most.
const WINDOW: i64 = 10_000;
/// How many letters one transaction discards or redrives, at most.
const AT_ONCE: usize = 1_000;

/// In the order of [`row::COLUMNS`], then the story.
const SELECT: &str =
    "SELECT pos, id, source, type, 0, attrs, data, letter, sub, original_kind, original,
     reason, error, attempts, first_failure, last_failure, fingerprint, generation FROM dead";

#[async_trait]
impl DeadLetters for SqliteBackend {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<DeadLetterPage> {
        let stream = std::sync::Arc::clone(&self.inner.stream);
        stream.check()?;
        let after = after.map(number).transpose()?.unwrap_or(0);
        let (filter, limit) = (filter.clone(), limit.clamp(1, PAGE));
        let read = move |db: &Connection| {
            let (found, next) = scan(db, &stream, &filter, after, limit)?;
            Ok(DeadLetterPage {
                items: found.into_iter().map(|letter| letter.shown).collect(),
                next: next.map(|letter| letter.to_string()),
            })
        };
        self.inner.readers.read(read).await
    }

    async fn get(&self, id: &str) -> Result<DeadLetter> {
        let stream = std::sync::Arc::clone(&self.inner.stream);
        stream.check()?;
        let letter = number(id)?;
        let read = move |db: &Connection| {
            let found = one(db, &stream, letter)?;
            found.map(|letter| letter.shown).ok_or_else(|| gone(letter))
        };
        self.inner.readers.read(read).await
    }

    async fn count(&self, selection: &Selection) -> Result<u64> {
        let stream = std::sync::Arc::clone(&self.inner.stream);
        stream.check()?;
        let selection = selection.clone();
        let read = move |db: &Connection| count(db, &stream, &selection);
        self.inner.readers.read(read).await
    }

    async fn redrive(&self, selection: &Selection, limit: usize) -> Result<Acted> {
        self.inner.stream.check()?;
        self.act(selection, limit, REDRIVEN).await
    }

    async fn discard(&self, selection: &Selection) -> Result<Acted> {
        self.inner.stream.check()?;
        self.act(selection, usize::MAX, DISCARDED).await
    }

    async fn replace(&self, id: &str, data: Data) -> Result<DeadLetter> {
        let stream = std::sync::Arc::clone(&self.inner.stream);
        stream.check()?;
        let letter = number(id)?;
        if data.bytes().len() > stream.config.data_bytes {
            let most = stream.config.data_bytes;
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "the data are {} bytes, at most {most} are taken",
                    data.bytes().len()
                ),
            ));
        }
        let run = move |act: &mut Act<'_>| match one(act.tx, &stream, letter) {
            Ok(Some(found)) => replace(act.tx, found, &data).map(Ok),
            Ok(None) => Ok(Err(gone(letter))),
            Err(error) => Ok(Err(error)),
        };
        self.inner.queue.operate(true, run).await
    }
}

impl SqliteBackend {
    /// Gives the selected letters the standing `to`, oldest first, a bounded number at a time.
    async fn act(&self, selection: &Selection, limit: usize, to: i64) -> Result<Acted> {
        let mut acted = Acted {
            matched: self.count(selection).await?,
            done: 0,
        };
        let mut after = 0;
        let mut left = limit;
        while left > 0 {
            let stream = std::sync::Arc::clone(&self.inner.stream);
            let (selection, most) = (selection.clone(), left.min(AT_ONCE));
            let run = move |act: &mut Act<'_>| {
                let found = match select(act.tx, &stream, &selection, after, most) {
                    Ok(found) => found,
                    Err(error) => return Ok(Err(error)),
                };
                stand(act, &stream, &found, to)?;
                let letters = found.letters.iter().map(|letter| letter.number);
                Ok(Ok((letters.count(), found.next)))
            };
            let (done, next) = self.inner.queue.operate(false, run).await?;
            acted.done += done as u64;
            left -= done;
            match next {
                Some(next) => after = next,
                None => break,
            }
        }
        Ok(acted)
    }
}

/// Tells a cursor that was read from its rows what was asked of its letters before the process ended.
pub(crate) fn restore(db: &Connection, names: &Names, sub: i64, live: &mut Live) -> Result<()> {
    let sql = format!("{SELECT} WHERE sub = ?1 AND standing = ?2 ORDER BY letter");
    let mut statement = db.prepare(&sql).map_err(error::sqlite)?;
    for standing in [REDRIVEN, DISCARDED] {
        let mut rows = statement.query((sub, standing)).map_err(error::sqlite)?;
        while let Some(row) = rows.next().map_err(error::sqlite)? {
            let position = unsigned(row.get(0).map_err(error::sqlite)?);
            let letter = row.get(7).map_err(error::sqlite)?;
            let generation = unsigned(row.get(17).map_err(error::sqlite)?);
            if standing == DISCARDED {
                live.cursor.discard(position, generation);
                live.forget_letter(letter);
                continue;
            }
            if live.cursor.standing(position).is_none() {
                let entry = row::read(row, names)?;
                live.cursor.redrive(position, generation, entry.event.key());
            }
            live.redriven.insert(position, letter);
        }
    }
    Ok(())
}

/// A letter and what only we need to know of it.
struct Letter {
    number: i64,
    sub: i64,
    generation: u64,
    shown: DeadLetter,
}

struct Found {
    letters: Vec<Letter>,
    next: Option<i64>,
}

/// Changes the rows, and after the commit the cursors.
fn stand(act: &mut Act<'_>, stream: &Stream, found: &Found, to: i64) -> rusqlite::Result<()> {
    let mut update = act
        .tx
        .prepare_cached("UPDATE dead SET standing = ?2 WHERE letter = ?1")?;
    for letter in &found.letters {
        update.execute((letter.number, to))?;
        let Some(subscription) = stream.subscriptions.numbered(letter.sub) else {
            continue;
        };
        let key = letter.shown.body.event().and_then(|event| event.key());
        let (key, position) = (key.map(str::to_owned), letter.shown.position.low());
        let (number, generation) = (letter.number, letter.generation);
        act.after.push(Box::new(move || {
            let live = &mut *subscription.live.lock();
            if to == REDRIVEN {
                live.redriven.insert(position, number);
                live.cursor.redrive(position, generation, key.as_deref());
            } else {
                live.cursor.discard(position, generation);
                live.forget_letter(number);
            }
            subscription.wake();
        }));
    }
    Ok(())
}

fn replace(tx: &Connection, letter: Letter, data: &Data) -> rusqlite::Result<DeadLetter> {
    let mut shown = letter.shown;
    let Some(event) = shown.body.event() else {
        return Ok(shown);
    };
    let first = shown.original.take().or_else(|| event.data().cloned());
    // Only the data differ from an event that was checked when it was published.
    let Ok(changed) = event.to_builder().data(data.clone()).build() else {
        return Ok(shown);
    };
    tx.prepare_cached(
        "UPDATE dead SET attrs = ?2, data = ?3, original_kind = ?4, original = ?5 WHERE letter = ?1",
    )?
    .execute((
        letter.number,
        record::encode_attributes(&changed),
        &data.bytes()[..],
        first.as_ref().map(|data| data.kind() as u8),
        first.as_ref().map(|data| &data.bytes()[..]),
    ))?;
    shown.body = DeadBody::Event(changed);
    shown.original = first;
    Ok(shown)
}

fn select(
    db: &Connection,
    stream: &Stream,
    selection: &Selection,
    after: i64,
    limit: usize,
) -> Result<Found> {
    let (letters, next) = match selection {
        Selection::Filter(filter) => scan(db, stream, filter, after, limit)?,
        Selection::Ids(ids) => {
            let mut numbers: Vec<i64> = ids.iter().filter_map(|id| number(id).ok()).collect();
            numbers.sort_unstable();
            numbers.dedup();
            numbers.retain(|number| *number > after);
            let mut letters = Vec::new();
            let mut next = None;
            for number in numbers {
                if letters.len() == limit {
                    break;
                }
                next = Some(number);
                letters.extend(one(db, stream, number)?);
            }
            (letters, next)
        }
    };
    Ok(Found { letters, next })
}

/// Letters above `after` that match, and where to go on.
fn scan(
    db: &Connection,
    stream: &Stream,
    filter: &DeadLetterFilter,
    after: i64,
    limit: usize,
) -> Result<(Vec<Letter>, Option<i64>)> {
    let sub = match &filter.subscription {
        None => None,
        Some(name) => match stream.subscriptions.get(name) {
            Ok(subscription) => subscription.number,
            Err(_) => return Ok((Vec::new(), None)),
        },
    };
    let sql = format!(
        "{SELECT} WHERE letter > ?1 AND standing = 0 AND (?2 IS NULL OR sub = ?2)
         ORDER BY letter LIMIT ?3"
    );
    let mut statement = db.prepare_cached(&sql).map_err(error::sqlite)?;
    let mut rows = statement
        .query((after, sub, WINDOW))
        .map_err(error::sqlite)?;
    let (mut letters, mut looked_at, mut last) = (Vec::new(), 0, after);
    while let Some(row) = rows.next().map_err(error::sqlite)? {
        (looked_at, last) = (looked_at + 1, row.get(7).map_err(error::sqlite)?);
        let Some(letter) = read(row, stream)? else {
            continue;
        };
        if filter.matches(&letter.shown) {
            letters.push(letter);
            if letters.len() == limit {
                return Ok((letters, Some(last)));
            }
        }
    }
    Ok((letters, (looked_at == WINDOW).then_some(last)))
}

fn count(db: &Connection, stream: &Stream, selection: &Selection) -> Result<u64> {
    let everything = DeadLetterFilter::default();
    if matches!(selection, Selection::Filter(filter) if *filter == everything) {
        let count = db.query_row("SELECT count(*) FROM dead WHERE standing = 0", [], |row| {
            row.get(0)
        });
        return count.map(unsigned).map_err(error::sqlite);
    }
    let (mut counted, mut after) = (0, 0);
    loop {
        let found = select(db, stream, selection, after, PAGE)?;
        counted += found.letters.len() as u64;
        match found.next {
            Some(next) => after = next,
            None => return Ok(counted),
        }
    }
}

fn one(db: &Connection, stream: &Stream, letter: i64) -> Result<Option<Letter>> {
    let sql = format!("{SELECT} WHERE letter = ?1 AND standing = ?2");
    let mut statement = db.prepare_cached(&sql).map_err(error::sqlite)?;
    statement
        .query_row((letter, DEAD), |row| Ok(read(row, stream)))
        .optional()
        .map_err(error::sqlite)?
        .unwrap_or(Ok(None))
}

/// None where the subscription was deleted meanwhile.
fn read(row: &rusqlite::Row<'_>, stream: &Stream) -> Result<Option<Letter>> {
    let sub = row.get(8).map_err(error::sqlite)?;
    let Some(subscription) = stream.subscriptions.numbered(sub) else {
        return Ok(None);
    };
    let entry = row::read(row, &stream.names)?;
    let story = || -> rusqlite::Result<Letter> {
        let number: i64 = row.get(7)?;
        let kind: Option<u8> = row.get(9)?;
        let original: Option<Vec<u8>> = row.get(10)?;
        let shown = DeadLetter {
            id: number.to_string(),
            subscription: subscription.name.clone(),
            position: entry.position(),
            body: DeadBody::Event(entry.event),
            original: original.map(|bytes| Data::from_parts(data_kind(kind), Bytes::from(bytes))),
            reason: row.get(11)?,
            error: row.get(12)?,
            attempts: row.get(13)?,
            first_failure: Timestamp::from_micros(row.get(14)?),
            last_failure: Timestamp::from_micros(row.get(15)?),
            fingerprint: row.get(16)?,
        };
        Ok(Letter {
            number,
            sub,
            generation: unsigned(row.get(17)?),
            shown,
        })
    };
    story().map(Some).map_err(error::sqlite)
}

fn data_kind(kind: Option<u8>) -> DataKind {
    match kind {
        Some(1) => DataKind::Json,
        Some(2) => DataKind::Text,
        _ => DataKind::Binary,
    }
}

fn number(id: &str) -> Result<i64> {
    let number = id.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| {
        let shown: String = id.chars().take(80).collect();
        Error::new(
            ErrorKind::NotFound,
            format!("no dead letter `{}`", shown.escape_debug()),
        )
    })
}

fn gone(letter: i64) -> Error {
    Error::new(ErrorKind::NotFound, format!("no dead letter `{letter}`"))
}
