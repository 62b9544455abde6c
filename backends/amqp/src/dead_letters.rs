//! Listing and mending dead letters: each step looks through the queues that hold them.

use async_trait::async_trait;
use fanfare_core::data::Data;
use fanfare_core::dead_letter::{
    Acted, DeadBody, DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetters, Selection,
};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::subscription::SubscriptionName;

use crate::backend::{AmqpBackend, Stream, locked};
use crate::register::Held;
use crate::sift::{Sift, Taken};
use crate::subscription::Stored;
use crate::wire::{self, Note};

impl Stream {
    /// The subscriptions that have any, or this one if it has.
    async fn with_dead_letters(
        &self,
        held: &Held,
        of: Option<&SubscriptionName>,
    ) -> Result<Vec<SubscriptionName>> {
        let book = self.read_book(held).await?;
        let mut found = Vec::new();
        for name in book.subscriptions.keys() {
            let name = SubscriptionName::parse(name)?;
            if of.is_none_or(|of| *of == name) && self.dead(&name).await? > 0 {
                found.push(name);
            }
        }
        Ok(found)
    }

    /// The letters that are meant, oldest first.
    async fn look(&self, held: &Held, filter: &DeadLetterFilter) -> Result<Vec<DeadLetter>> {
        let mut found = Vec::new();
        for name in self
            .with_dead_letters(held, filter.subscription.as_ref())
            .await?
        {
            let (sift, letters) = self.letters(&name).await?;
            sift.put_back().await?;
            let letters = letters.into_iter().map(|(_, letter)| letter);
            found.extend(letters.filter(|letter| filter.matches(letter)));
        }
        found.sort_by_key(number);
        Ok(found)
    }

    async fn redrive(&self, held: &Held, selection: &Selection, limit: usize) -> Result<Acted> {
        let mut acted = Acted::default();
        for name in self
            .with_dead_letters(held, subscription(selection))
            .await?
        {
            let (sift, letters) = self.letters(&name).await?;
            for (taken, letter) in letters {
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
                let (queue, properties) = (self.queue_of(&name), wire::properties(event, &note));
                let line = &self.line;
                line.write(sift.pen(), &queue, event.bytes(), properties)
                    .await?;
                sift.let_go(&[taken]).await?;
                acted.done += 1;
            }
            sift.put_back().await?;
        }
        Ok(acted)
    }

    async fn discard(&self, held: &Held, selection: &Selection) -> Result<Acted> {
        let mut acted = Acted::default();
        for name in self
            .with_dead_letters(held, subscription(selection))
            .await?
        {
            let (sift, letters) = self.letters(&name).await?;
            let meant = letters.iter().filter(|(_, l)| selects(selection, l));
            let meant: Vec<_> = meant.map(|(taken, _)| *taken).collect();
            sift.let_go(&meant).await?;
            sift.put_back().await?;
            let count = meant.len() as u64;
            (acted.matched, acted.done) = (acted.matched + count, acted.done + count);
            if let Some(hub) = self.hub(&name) {
                hub.desk.lock().dropped += count;
            } else if count > 0 {
                let note = |stored: &mut Stored| {
                    stored.dropped += count;
                    Ok(())
                };
                self.change(held, &name, note).await?;
            }
        }
        Ok(acted)
    }

    async fn replace(&self, held: &Held, id: &str, data: Data) -> Result<DeadLetter> {
        for name in self.with_dead_letters(held, None).await? {
            let (sift, letters) = self.letters(&name).await?;
            let found = letters.into_iter().find(|(_, letter)| letter.id == id);
            let mended = match found {
                Some((taken, letter)) => Some(self.mend(&sift, taken, letter, data.clone()).await),
                None => None,
            };
            sift.put_back().await?;
            if let Some(mended) = mended {
                return mended;
            }
        }
        Err(missing(id))
    }

    async fn mend(
        &self,
        sift: &Sift<'_>,
        taken: Taken,
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
        self.keep(sift.pen(), &letter).await?;
        sift.let_go(&[taken]).await?;
        Ok(letter)
    }
}

fn selects(selection: &Selection, letter: &DeadLetter) -> bool {
    match selection {
        Selection::Ids(ids) => ids.contains(&letter.id),
        Selection::Filter(filter) => filter.matches(letter),
    }
}

/// The only one whose letters can be meant.
fn subscription(selection: &Selection) -> Option<&SubscriptionName> {
    match selection {
        Selection::Ids(_) => None,
        Selection::Filter(filter) => filter.subscription.as_ref(),
    }
}

fn number(letter: &DeadLetter) -> u128 {
    letter.id.parse().unwrap_or(0)
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
        let letters = locked!(self, |held| self.stream.look(&held, filter))?;
        let after = after.and_then(|id| id.parse::<u128>().ok()).unwrap_or(0);
        let mut found = letters.into_iter().filter(|letter| number(letter) > after);
        let items: Vec<_> = found.by_ref().take(limit).collect();
        let more = found.next().is_some();
        let next = items
            .last()
            .filter(|_| more)
            .map(|letter| letter.id.clone());
        Ok(DeadLetterPage { items, next })
    }

    async fn get(&self, id: &str) -> Result<DeadLetter> {
        let all = DeadLetterFilter::default();
        let letters = locked!(self, |held| self.stream.look(&held, &all))?;
        let mut found = letters.into_iter().filter(|letter| letter.id == id);
        found.next().ok_or_else(|| missing(id))
    }

    async fn count(&self, selection: &Selection) -> Result<u64> {
        let all = DeadLetterFilter::default();
        let filter = match selection {
            Selection::Ids(_) => &all,
            Selection::Filter(filter) => filter,
        };
        let letters = locked!(self, |held| self.stream.look(&held, filter))?;
        Ok(letters.iter().filter(|l| selects(selection, l)).count() as u64)
    }

    async fn redrive(&self, selection: &Selection, limit: usize) -> Result<Acted> {
        locked!(self, |held| self.stream.redrive(&held, selection, limit))
    }

    async fn discard(&self, selection: &Selection) -> Result<Acted> {
        locked!(self, |held| self.stream.discard(&held, selection))
    }

    async fn replace(&self, id: &str, data: Data) -> Result<DeadLetter> {
        locked!(self, |held| self.stream.replace(&held, id, data))
    }
}
