//! The dead letters of this process, which go with it.

use std::collections::VecDeque;

use async_trait::async_trait;
use fanfare_core::data::Data;
use fanfare_core::dead_letter::{
    Acted, DeadBody, DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetters, Selection,
};
use fanfare_core::error::{Error, ErrorKind, Result};
use parking_lot::Mutex;

use super::NatsCore;
use super::room::Room;
use super::subscription::Subscription;

/// In the order of death.
#[derive(Debug)]
pub(super) struct Letters {
    kept: Mutex<VecDeque<DeadLetter>>,
    most: usize,
}

impl Letters {
    pub(super) fn new(most: usize) -> Self {
        Self {
            kept: Mutex::default(),
            most,
        }
    }

    /// Takes what the subscription gave up.
    pub(super) fn collect(&self, subscription: &Subscription, room: &Room) {
        let new = {
            let mut queue = subscription.queue();
            let new = queue.unwritten().to_vec();
            queue.forget_written(new.len());
            new
        };
        if new.is_empty() {
            return;
        }
        let excess: Vec<_> = {
            let mut kept = self.kept.lock();
            kept.extend(new);
            let excess = kept.len().saturating_sub(self.most);
            kept.drain(..excess).collect()
        };
        for letter in excess {
            let (id, name) = (&letter.id, &letter.subscription);
            tracing::error!(subscription = %name, id, "too many dead letters: the oldest is dropped");
            forget(room, &letter);
        }
    }

    /// Copies of what is meant, oldest first.
    fn selected(&self, selection: &Selection) -> Vec<DeadLetter> {
        let kept = self.kept.lock();
        let meant = kept.iter().filter(|letter| match selection {
            Selection::Ids(ids) => ids.contains(&letter.id),
            Selection::Filter(filter) => filter.matches(letter),
        });
        meant.cloned().collect()
    }

    /// Takes one out, if nobody else did.
    fn take_out(&self, id: &str) -> Option<DeadLetter> {
        let mut kept = self.kept.lock();
        let at = kept.iter().position(|letter| letter.id == id)?;
        kept.remove(at)
    }

    pub(super) fn discard(&self, selection: &Selection, room: &Room) -> Acted {
        let selected = self.selected(selection);
        let mut acted = Acted {
            matched: selected.len() as u64,
            done: 0,
        };
        for letter in selected {
            if let Some(letter) = self.take_out(&letter.id) {
                acted.done += 1;
                forget(room, &letter);
            }
        }
        acted
    }
}

fn forget(room: &Room, letter: &DeadLetter) {
    if let Ok(subscription) = room.subscription(&letter.subscription) {
        subscription.change(|queue| queue.discard(&letter.id));
    }
}

fn gone(id: &str) -> Error {
    let text = format!("there is no dead letter `{}`", id.escape_debug());
    Error::new(ErrorKind::NotFound, text)
}

#[async_trait]
impl DeadLetters for NatsCore {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<DeadLetterPage> {
        self.room.check_open()?;
        let kept = self.room.letters.kept.lock();
        let mut letters = kept.iter();
        if let Some(after) = after
            && !letters.any(|letter| letter.id == after)
        {
            let text = "the dead letter of the cursor is gone: list from the beginning";
            return Err(Error::new(ErrorKind::Gone, text));
        }
        let mut letters = letters.filter(|letter| filter.matches(letter));
        let items: Vec<_> = letters.by_ref().take(limit).cloned().collect();
        let more = letters.next().and(items.last());
        Ok(DeadLetterPage {
            next: more.map(|letter| letter.id.clone()),
            items,
        })
    }

    async fn get(&self, id: &str) -> Result<DeadLetter> {
        self.room.check_open()?;
        let kept = self.room.letters.kept.lock();
        let found = kept.iter().find(|letter| letter.id == id);
        found.cloned().ok_or_else(|| gone(id))
    }

    async fn count(&self, selection: &Selection) -> Result<u64> {
        self.room.check_open()?;
        Ok(self.room.letters.selected(selection).len() as u64)
    }

    async fn redrive(&self, selection: &Selection, limit: usize) -> Result<Acted> {
        self.room.check_open()?;
        let letters = &self.room.letters;
        let selected = letters.selected(selection);
        let mut acted = Acted {
            matched: selected.len() as u64,
            done: 0,
        };
        for letter in selected {
            if acted.done == limit as u64 {
                break;
            }
            let (DeadBody::Event(_), Ok(subscription)) =
                (&letter.body, self.room.subscription(&letter.subscription))
            else {
                continue;
            };
            // As it is now: somebody may have edited it.
            if let Some(DeadLetter {
                body: DeadBody::Event(event),
                ..
            }) = letters.take_out(&letter.id)
            {
                let now = self.room.wire.config.clock.now();
                subscription.change(|queue| queue.redrive(&letter.id, event, now));
                acted.done += 1;
            }
        }
        Ok(acted)
    }

    async fn discard(&self, selection: &Selection) -> Result<Acted> {
        self.room.check_open()?;
        Ok(self.room.letters.discard(selection, &self.room))
    }

    async fn replace(&self, id: &str, data: Data) -> Result<DeadLetter> {
        self.room.check_open()?;
        let mut kept = self.room.letters.kept.lock();
        let found = kept.iter_mut().find(|letter| letter.id == id);
        let letter = found.ok_or_else(|| gone(id))?;
        let DeadBody::Event(event) = &letter.body else {
            let text = "undecodable input has no data to replace";
            return Err(Error::new(ErrorKind::Conflict, text));
        };
        let edited = event.to_builder().data(data).build()?;
        let before = event.data().cloned();
        letter.original = letter.original.take().or(before);
        letter.body = DeadBody::Event(edited);
        Ok(letter.clone())
    }
}
