//! Listing, redriving, discarding and mending dead letters. They are numbered in the order of death;
//! what an engine does with numbered letters at once is behind [`DeadLetterStore`].

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use fanfare_core::data::{Data, DataKind};
use fanfare_core::dead_letter::{
    Acted, DeadBody, DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetters, Selection,
};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::subscription::SubscriptionName;
use tokio::sync::watch;

use crate::slot::Slot;

/// Letters read, redriven or discarded in one call.
const CALL: usize = 200;
/// How often an edit is tried again when others edit too.
const TRIES: usize = 20;

/// Where an engine keeps its dead letters.
#[async_trait]
pub trait DeadLetterStore: Debug + Send + Sync + 'static {
    /// Those of these numbers that are there, oldest first.
    async fn letters(&self, numbers: &[u64]) -> Result<Vec<DeadLetter>>;

    /// Of the next `most` letters after this number those that match, oldest first, and the number to
    /// go on from; none at the end.
    async fn letters_after(
        &self,
        filter: &DeadLetterFilter,
        after: u64,
        most: usize,
    ) -> Result<Option<(Vec<DeadLetter>, u64)>>;

    /// Whether there is such a subscription and it keeps order.
    async fn is_ordered(&self, name: &SubscriptionName) -> Result<bool>;

    /// Returns letters to their subscriptions; answers how many were there.
    async fn redrive(&self, letters: Vec<Redriven>) -> Result<u64>;

    /// Removes letters for good; answers how many were there.
    async fn discard(&self, numbers: &[u64]) -> Result<u64>;

    /// Replaces a body that is still as it was.
    async fn replace(&self, number: u64, edit: Edit) -> Result<Replaced>;
}

/// A letter on its way back.
#[derive(Debug)]
pub struct Redriven {
    /// Its own.
    pub number: u64,
    /// The lane it enters; empty where none.
    pub key: String,
    /// The event, encoded.
    pub body: Vec<u8>,
}

/// Another body for a letter.
#[derive(Debug)]
pub struct Edit {
    /// Encoded, as it was.
    pub before: Vec<u8>,
    /// Encoded, as it is to be.
    pub after: Vec<u8>,
    /// The data as they were, see [`read_data`]; kept only from the first edit.
    pub original: Vec<u8>,
}

/// What became of an edit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// It is done.
    Done,
    /// Somebody else edited meanwhile.
    Stale,
    /// There is no such letter.
    Gone,
}

/// The dead letters of a backend.
#[derive(Debug)]
pub struct Letters<S> {
    store: Arc<S>,
    closed: watch::Receiver<bool>,
}

impl<S: DeadLetterStore> Letters<S> {
    /// Kept there, until `closed`.
    pub fn of(store: Arc<S>, closed: watch::Receiver<bool>) -> Self {
        Self { store, closed }
    }

    fn check_open(&self) -> Result<()> {
        if *self.closed.borrow() {
            return Err(Error::new(ErrorKind::Closed, "the backend is closed"));
        }
        Ok(())
    }

    /// The numbers of the selected letters, oldest first.
    async fn selected(&self, selection: &Selection) -> Result<Vec<u64>> {
        let mut found = Vec::new();
        match selection {
            Selection::Ids(ids) => {
                let mut numbers: Vec<u64> = ids.iter().flat_map(|id| id.parse()).collect();
                numbers.sort_unstable();
                numbers.dedup();
                for some in numbers.chunks(CALL) {
                    found.extend(self.store.letters(some).await?.iter().map(number));
                }
            }
            Selection::Filter(filter) => {
                let mut after = 0;
                while let Some((letters, last)) =
                    self.store.letters_after(filter, after, CALL).await?
                {
                    after = last;
                    found.extend(letters.iter().map(number));
                }
            }
        }
        Ok(found)
    }

    async fn redrive_some(&self, numbers: &[u64]) -> Result<u64> {
        let letters = self.store.letters(numbers).await?;
        let mut ordered = BTreeMap::new();
        let mut redriven = Vec::with_capacity(letters.len());
        for letter in &letters {
            let name = &letter.subscription;
            if !ordered.contains_key(name) {
                ordered.insert(name, self.store.is_ordered(name).await?);
            }
            let slot = Slot::from(letter.body.clone());
            let key = slot.event().and_then(|event| event.key());
            let key = key.filter(|_| ordered.get(name) == Some(&true));
            redriven.push(Redriven {
                number: number(letter),
                key: key.unwrap_or_default().to_owned(),
                body: slot.encode(),
            });
        }
        self.store.redrive(redriven).await
    }
}

#[async_trait]
impl<S: DeadLetterStore> DeadLetters for Letters<S> {
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
                .parse()
                .map_err(|_| Error::invalid("/cursor", "not a cursor of ours"))?,
        };
        let mut page = DeadLetterPage::default();
        while let Some((letters, last)) = self.store.letters_after(filter, after, CALL).await? {
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
        let letters = self.store.letters(&[number]).await?;
        letters.into_iter().next().ok_or_else(|| gone(id))
    }

    async fn count(&self, selection: &Selection) -> Result<u64> {
        self.check_open()?;
        Ok(self.selected(selection).await?.len() as u64)
    }

    async fn redrive(&self, selection: &Selection, limit: usize) -> Result<Acted> {
        self.check_open()?;
        let mut selected = self.selected(selection).await?;
        let matched = selected.len() as u64;
        selected.truncate(limit);
        let mut done = 0;
        for some in selected.chunks(CALL) {
            done += self.redrive_some(some).await?;
        }
        Ok(Acted { matched, done })
    }

    async fn discard(&self, selection: &Selection) -> Result<Acted> {
        self.check_open()?;
        let selected = self.selected(selection).await?;
        let mut done = 0;
        for some in selected.chunks(CALL) {
            done += self.store.discard(some).await?;
        }
        Ok(Acted {
            matched: selected.len() as u64,
            done,
        })
    }

    async fn replace(&self, id: &str, data: Data) -> Result<DeadLetter> {
        for _ in 0..TRIES {
            let letter = self.get(id).await?;
            let DeadBody::Event(event) = &letter.body else {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "undecodable input has no data to replace",
                ));
            };
            let edited = event.to_builder().data(data.clone()).build()?;
            let edit = Edit {
                before: Slot::Event(event.clone()).encode(),
                after: Slot::Event(edited).encode(),
                original: write_data(event.data()),
            };
            match self.store.replace(number(&letter), edit).await? {
                Replaced::Done => return self.get(id).await,
                Replaced::Gone => return Err(gone(id)),
                Replaced::Stale => {}
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            "the dead letter was edited by others all the time",
        ))
    }
}

/// The data of [`Edit::original`]; none where the event had none.
pub fn read_data(bytes: &[u8]) -> Option<Data> {
    let (kind, rest) = bytes.split_first()?;
    let kinds = [DataKind::Json, DataKind::Text, DataKind::Binary];
    let kind = kinds.into_iter().find(|known| *known as u8 == *kind)?;
    Some(Data::from_parts(kind, rest.to_vec()))
}

/// The kind in the first byte; nothing where the event had no data.
fn write_data(data: Option<&Data>) -> Vec<u8> {
    data.map_or_else(Vec::new, |data| {
        [&[data.kind() as u8], &data.bytes()[..]].concat()
    })
}

fn number(letter: &DeadLetter) -> u64 {
    letter.id.parse().unwrap_or(0)
}

fn gone(id: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("there is no dead letter `{}`", id.escape_debug()),
    )
}
