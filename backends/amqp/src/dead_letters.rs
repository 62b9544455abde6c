//! Listing and mending dead letters: each step looks through the queue that holds them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use fanfare_core::data::Data;
use fanfare_core::dead_letter::{
    Acted, DeadBody, DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetters, Selection,
};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::subscription::SubscriptionName;

use crate::admin::locked;
use crate::backend::{AmqpBackend, Stream};
use crate::register::Held;
use crate::settle::publish;
use crate::sift::Sift;
use crate::subscription::Stored;
use crate::wire::{self, Note};

impl Stream {
    async fn look(&self) -> Result<Vec<DeadLetter>> {
        let (sift, letters) = self.letters().await?;
        sift.put_back().await?;
        Ok(letters.into_iter().map(|(_, letter)| letter).collect())
    }

    async fn redrive(&self, selection: &Selection, limit: usize) -> Result<Acted> {
        let (sift, letters) = self.letters().await?;
        let mut acted = Acted::default();
        for (tag, letter) in letters {
            if !selects(selection, &letter) {
                continue;
            }
            acted.matched += 1;
            let Some(event) = letter.body.event().filter(|_| acted.done < limit as u64) else {
                continue;
            };
            let note = Note {
                position: letter.position,
                ..Note::default()
            };
            let queue = self.queue_of(&letter.subscription);
            let properties = wire::properties(event, &note);
            publish(sift.channel(), &queue, event.bytes(), properties).await?;
            sift.let_go(&[tag]).await?;
            acted.done += 1;
        }
        sift.put_back().await?;
        Ok(acted)
    }

    async fn discard(&self, held: &Held, selection: &Selection) -> Result<Acted> {
        let (sift, letters) = self.letters().await?;
        let (mut tags, mut dropped) = (Vec::new(), BTreeMap::<SubscriptionName, u64>::new());
        for (tag, letter) in letters {
            if selects(selection, &letter) {
                tags.push(tag);
                *dropped.entry(letter.subscription).or_default() += 1;
            }
        }
        sift.let_go(&tags).await?;
        sift.put_back().await?;
        for (name, count) in dropped {
            if let Some(hub) = self.hub(&name) {
                hub.desk.lock().dropped += count;
                continue;
            }
            let note = |stored: &mut Stored| {
                stored.dropped += count;
                Ok(())
            };
            self.change(held, &name, note).await?;
        }
        let done = tags.len() as u64;
        Ok(Acted {
            matched: done,
            done,
        })
    }

    async fn replace(&self, id: &str, data: Data) -> Result<DeadLetter> {
        let (sift, letters) = self.letters().await?;
        let found = letters.into_iter().find(|(_, letter)| letter.id == id);
        let mended = match found {
            Some((tag, letter)) => self.mend(&sift, tag, letter, data).await,
            None => Err(missing(id)),
        };
        sift.put_back().await?;
        mended
    }

    async fn mend(
        &self,
        sift: &Sift,
        tag: u64,
        mut letter: DeadLetter,
        data: Data,
    ) -> Result<DeadLetter> {
        let DeadBody::Event(event) = &letter.body else {
            let text = "what could not be decoded has no data to replace";
            return Err(Error::new(ErrorKind::Conflict, text));
        };
        let before = event.data().cloned();
        letter.original = letter.original.or(before);
        letter.body = DeadBody::Event(event.to_builder().data(data).build()?);
        self.keep(sift.channel(), &letter).await?;
        sift.let_go(&[tag]).await?;
        Ok(letter)
    }
}

fn selects(selection: &Selection, letter: &DeadLetter) -> bool {
    match selection {
        Selection::Ids(ids) => ids.contains(&letter.id),
        Selection::Filter(filter) => filter.matches(letter),
    }
}

fn missing(id: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("there is no dead letter `{id}`"),
    )
}

#[async_trait]
impl DeadLetters for AmqpBackend {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<DeadLetterPage> {
        let letters = locked!(self, |held| self.stream.look())?;
        let after = after.and_then(|id| id.parse::<u128>().ok()).unwrap_or(0);
        let behind = |letter: &DeadLetter| letter.id.parse::<u128>().unwrap_or(0) > after;
        let mut found = letters
            .into_iter()
            .filter(|l| behind(l) && filter.matches(l));
        let items: Vec<_> = found.by_ref().take(limit).collect();
        let more = found.next().is_some();
        let next = items
            .last()
            .filter(|_| more)
            .map(|letter| letter.id.clone());
        Ok(DeadLetterPage { items, next })
    }

    async fn get(&self, id: &str) -> Result<DeadLetter> {
        let letters = locked!(self, |held| self.stream.look())?;
        let mut found = letters.into_iter().filter(|letter| letter.id == id);
        found.next().ok_or_else(|| missing(id))
    }

    async fn count(&self, selection: &Selection) -> Result<u64> {
        let letters = locked!(self, |held| self.stream.look())?;
        Ok(letters
            .iter()
            .filter(|letter| selects(selection, letter))
            .count() as u64)
    }

    async fn redrive(&self, selection: &Selection, limit: usize) -> Result<Acted> {
        locked!(self, |held| self.stream.redrive(selection, limit))
    }

    async fn discard(&self, selection: &Selection) -> Result<Acted> {
        locked!(self, |held| self.stream.discard(&held, selection))
    }

    async fn replace(&self, id: &str, data: Data) -> Result<DeadLetter> {
        locked!(self, |held| self.stream.replace(id, data))
    }
}
