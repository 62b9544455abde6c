//! Listing, redriving, discarding and mending dead letters.

use async_trait::async_trait;
use fanfare_core::data::Data;
use fanfare_core::dead_letter::{
    Acted, DeadBody, DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetters, Selection,
};
use fanfare_core::error::{Error, ErrorKind, Result};

use crate::backend::{Inner, MemoryBackend};

impl Inner {
    fn selected(&self, selection: &Selection) -> Vec<u64> {
        match selection {
            Selection::Filter(filter) => self
                .dead
                .iter()
                .filter(|(_, dead)| filter.matches(&dead.letter))
                .map(|(id, _)| *id)
                .collect(),
            Selection::Ids(ids) => {
                let mut found: Vec<u64> = ids
                    .iter()
                    .filter_map(|id| id.parse().ok())
                    .filter(|id| self.dead.contains_key(id))
                    .collect();
                found.sort_unstable();
                found.dedup();
                found
            }
        }
    }

    fn redrive(&mut self, id: u64) {
        let Some(dead) = self.dead.remove(&id) else {
            return;
        };
        let Some(subscription) = self.subscriptions.get_mut(&dead.letter.subscription) else {
            return;
        };
        let DeadBody::Event(event) = dead.letter.body else {
            return;
        };
        let position = dead.letter.position.low();
        subscription
            .cursor
            .redrive(position, dead.generation, event.key());
        if subscription.cursor.standing(position).is_some() {
            subscription.bodies.insert(position, event);
        }
        subscription.wake.notify_waiters();
    }

    fn discard(&mut self, id: u64) {
        let Some(dead) = self.dead.remove(&id) else {
            return;
        };
        if let Some(subscription) = self.subscriptions.get_mut(&dead.letter.subscription) {
            subscription
                .cursor
                .discard(dead.letter.position.low(), dead.generation);
            subscription.wake.notify_waiters();
        }
    }
}

fn gone(id: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("there is no dead letter `{}`", id.escape_debug()),
    )
}

#[async_trait]
impl DeadLetters for MemoryBackend {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<DeadLetterPage> {
        let after = match after {
            None => 0,
            Some(text) => text
                .parse::<u64>()
                .map_err(|_| Error::invalid("/cursor", "not a cursor of ours"))?,
        };
        let inner = self.lock()?;
        let mut found = inner
            .dead
            .range(after.saturating_add(1)..)
            .filter(|(_, d)| filter.matches(&d.letter));
        let items: Vec<DeadLetter> = found
            .by_ref()
            .take(limit)
            .map(|(_, dead)| dead.letter.clone())
            .collect();
        let next = found
            .next()
            .and_then(|_| items.last().map(|letter| letter.id.clone()));
        Ok(DeadLetterPage { items, next })
    }

    async fn get(&self, id: &str) -> Result<DeadLetter> {
        let inner = self.lock()?;
        let found = id.parse().ok().and_then(|id: u64| inner.dead.get(&id));
        found
            .map(|dead| dead.letter.clone())
            .ok_or_else(|| gone(id))
    }

    async fn count(&self, selection: &Selection) -> Result<u64> {
        Ok(self.lock()?.selected(selection).len() as u64)
    }

    async fn redrive(&self, selection: &Selection, limit: usize) -> Result<Acted> {
        let mut inner = self.lock()?;
        let selected = inner.selected(selection);
        let meant: Vec<u64> = selected.iter().copied().take(limit).collect();
        for id in &meant {
            inner.redrive(*id);
        }
        Ok(Acted {
            matched: selected.len() as u64,
            done: meant.len() as u64,
        })
    }

    async fn discard(&self, selection: &Selection) -> Result<Acted> {
        let mut inner = self.lock()?;
        let selected = inner.selected(selection);
        for id in &selected {
            inner.discard(*id);
        }
        Ok(Acted {
            matched: selected.len() as u64,
            done: selected.len() as u64,
        })
    }

    async fn replace(&self, id: &str, data: Data) -> Result<DeadLetter> {
        let mut inner = self.lock()?;
        let number = id.parse::<u64>().map_err(|_| gone(id))?;
        let dead = inner.dead.get_mut(&number).ok_or_else(|| gone(id))?;
        let DeadBody::Event(event) = &dead.letter.body else {
            return Err(Error::new(
                ErrorKind::Conflict,
                "undecodable input has no data to replace",
            ));
        };
        let original = event.data().cloned();
        let edited = event.to_builder().data(data).build()?;
        if dead.letter.original.is_none() {
            dead.letter.original = original;
        }
        dead.letter.body = DeadBody::Event(edited);
        Ok(dead.letter.clone())
    }
}
