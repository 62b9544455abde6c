//! An ordered subscription between processes: the broker gives its events to one at a time, and the book
//! says which, whether it left in good order, and what the messages themselves cannot tell. Who of that
//! process gets what is the desk's.

use std::collections::BTreeMap;
use std::sync::Arc;

use fanfare_core::consumer::MemberKind;
use fanfare_core::delivery::Settlement;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::position::Position;
use fanfare_cursor::MemberId;
use hashbrown::HashMap;

use crate::desk::Ending;
use crate::hub::Hub;
use crate::settle::SHORT_RETRY;
use crate::subscription::{Stored, Story};

impl Hub {
    /// Puts our name where the one before stood, and has the desk know what that one left.
    pub(crate) async fn take_over(&self) -> Result<()> {
        let me = self.stream.process.clone();
        let take = |stored: &mut Stored| {
            let before = stored.owner.replace(me.clone());
            let stories = (before.as_ref() != Some(&me)).then(|| stored.stories.clone());
            Ok((stories, before.is_some()))
        };
        let (stories, died) = self.stream.note(&self.name, take).await?;
        let before = match stories {
            Some(stories) => Some((read(&stories)?, died)),
            None => None,
        };
        self.desk.lock().own(before, self.stream.now());
        self.wake.notify_waiters();
        Ok(())
    }

    /// Notes what is to run alone next, before it does; in a task of its own.
    pub(crate) async fn note_next(self: &Arc<Self>, who: (MemberId, MemberKind)) {
        let hub = self.clone();
        // One that panics has said so.
        let _ = tokio::spawn(async move { hub.note_next_of(who).await }).await;
    }

    async fn note_next_of(&self, who: (MemberId, MemberKind)) {
        let _one = self.fetching.lock().await;
        let next = self.desk.lock().next_to_note(who, self.stream.now());
        let Some((position, story)) = next else {
            return;
        };
        if let Err(error) = self.write_down(vec![(position, Some(story))]).await {
            // It waits until there is a line again.
            tracing::debug!(subscription = %self.name, %error, "not noted");
        }
    }

    /// What whoever comes next must know of these settlements, and what nobody needs any more.
    pub(crate) async fn write_down_settled(&self, told: &[&(Ending, Settlement)]) -> Result<()> {
        let now = self.stream.now();
        let changes: Vec<_> = {
            let desk = self.desk.lock();
            let change = |(ending, with): &&(Ending, Settlement)| {
                let position = ending.item.note.position;
                let story = match with {
                    Settlement::Retry { after, .. } if *after > SHORT_RETRY => {
                        let failed = ending.item.note.first_failure.or(Some(now));
                        let story = Story::new(desk.attempts(ending), failed);
                        Some(story.until(now + *after))
                    }
                    Settlement::Retry { .. } | Settlement::Release => return None,
                    _ if desk.has_story(position) => None,
                    _ => return None,
                };
                Some((position, story))
            };
            told.iter().filter_map(change).collect()
        };
        self.write_down(changes).await
    }

    async fn write_down(&self, changes: Vec<(Position, Option<Story>)>) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let me = &self.stream.process;
        let write = |stored: &mut Stored| {
            if stored.owner.as_ref() != Some(me) {
                let text = "another process has the subscription now";
                return Err(Error::new(ErrorKind::Unavailable, text));
            }
            for (position, story) in &changes {
                let position = position.to_string();
                match story {
                    Some(story) => stored.stories.insert(position, *story),
                    None => stored.stories.remove(&position),
                };
            }
            Ok(())
        };
        self.stream.note(&self.name, write).await?;
        self.desk.lock().noted(&changes);
        Ok(())
    }

    /// Leaves in good order: whoever comes next waits for nobody's lease.
    pub(crate) async fn hand_over(&self) -> Result<()> {
        let left = self.desk.lock().leave(self.stream.now());
        let Some(left) = left else {
            return Ok(());
        };
        let me = &self.stream.process;
        let hand = |stored: &mut Stored| {
            if stored.owner.as_ref() == Some(me) {
                stored.owner = None;
                let line = |(position, story): (&Position, &Story)| (position.to_string(), *story);
                stored.stories = left.iter().map(line).collect();
            }
            Ok(())
        };
        self.stream.note(&self.name, hand).await
    }
}

fn read(stories: &BTreeMap<String, Story>) -> Result<HashMap<Position, Story>> {
    let line = |(position, story): (&String, &Story)| Ok((position.parse()?, *story));
    stories.iter().map(line).collect()
}
