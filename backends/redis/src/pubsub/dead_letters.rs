//! Dead letters, in a list of Redis that all processes share and that outlives them. An item is taken
//! out by its own bytes, so that of many who try one succeeds.

use async_trait::async_trait;
use fanfare_core::data::Data;
use fanfare_core::dead_letter::{
    Acted, DeadBody, DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetters, Selection,
};
use fanfare_core::error::{Error, ErrorKind, Result};

use super::stream::Stream;
use super::subscription::Subscription;
use super::{RedisPubSub, letter};
use crate::error::map_write;

/// Items read or written in one call.
const CALL: usize = 200;
/// Puts another item in the place of one that is still there.
const REPLACE: &str = "local at = redis.call('LPOS', KEYS[1], ARGV[1]) \
     if not at then return 0 end \
     redis.call('LSET', KEYS[1], at, ARGV[2]) \
     return 1";

/// A letter and its item, byte for byte.
struct Kept {
    letter: DeadLetter,
    item: Vec<u8>,
}

/// Writes what the subscription gave up. What cannot be written stays with the process and is tried
/// again with the next delivery.
pub(super) async fn write(stream: &Stream, subscription: &Subscription) {
    if subscription.queue().unwritten().is_empty() {
        return;
    }
    // Whoever writes may be dropped before the answer: the letters stay where they are until then.
    let _alone = subscription.writing.lock().await;
    let letters = subscription.queue().unwritten().to_vec();
    match push(stream, &letters).await {
        Ok(()) => subscription.change(|queue| queue.forget_written(letters.len())),
        Err(error) => {
            let (name, count) = (&subscription.name, letters.len());
            tracing::warn!(subscription = %name, count, %error, "dead letters are not written yet");
        }
    }
}

async fn push(stream: &Stream, letters: &[DeadLetter]) -> Result<()> {
    for some in letters.chunks(CALL) {
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        for letter in some {
            let item = letter::write(stream.form(), letter)?;
            // An attempt before may have written it, and lost the answer.
            let key = &stream.dead_letters;
            pipeline.cmd("LREM").arg(key).arg(1).arg(&item).ignore();
            pipeline.cmd("LPUSH").arg(key).arg(&item).ignore();
        }
        let written = stream.wire.try_run_all::<()>(&pipeline).await;
        written.map_err(map_write)?;
    }
    Ok(())
}

impl RedisPubSub {
    /// The next items, oldest first, behind the oldest `skip`.
    async fn items(&self, skip: usize) -> Result<Vec<Vec<u8>>> {
        let mut range = redis::cmd("LRANGE");
        range.arg(&self.stream.dead_letters);
        range.arg(format!("-{}", skip + CALL));
        range.arg(format!("-{}", skip + 1));
        let mut items: Vec<Vec<u8>> = self.stream.wire.run(&range).await?;
        items.reverse();
        Ok(items)
    }

    /// Every letter that is meant, oldest first.
    async fn selected(&self, selection: &Selection) -> Result<Vec<Kept>> {
        self.check_open()?;
        let (mut found, mut seen) = (Vec::new(), 0);
        loop {
            let items = self.items(seen).await?;
            if items.is_empty() {
                return Ok(found);
            }
            seen += items.len();
            for item in items {
                let Some(letter) = letter::read(self.stream.form(), &item) else {
                    continue;
                };
                let meant = match selection {
                    Selection::Ids(ids) => ids.contains(&letter.id),
                    Selection::Filter(filter) => filter.matches(&letter),
                };
                if meant {
                    found.push(Kept { letter, item });
                }
            }
        }
    }

    /// Takes an item out; whether it was still there.
    async fn take_out(&self, item: &[u8]) -> Result<bool> {
        let mut remove = redis::cmd("LREM");
        remove.arg(&self.stream.dead_letters).arg(-1).arg(item);
        let removed = self.stream.wire.try_run::<u64>(&remove).await;
        Ok(removed.map_err(map_write)? > 0)
    }

    async fn one(&self, id: &str) -> Result<Kept> {
        let selection = Selection::Ids(vec![id.to_owned()]);
        let found = self.selected(&selection).await?.pop();
        found.ok_or_else(|| {
            let text = format!("there is no dead letter `{}`", id.escape_debug());
            Error::new(ErrorKind::NotFound, text)
        })
    }
}

#[async_trait]
impl DeadLetters for RedisPubSub {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<DeadLetterPage> {
        let all = Selection::Filter(DeadLetterFilter::default());
        let mut letters = self
            .selected(&all)
            .await?
            .into_iter()
            .map(|kept| kept.letter);
        if let Some(after) = after
            && !letters.any(|letter| letter.id == after)
        {
            let text = "the dead letter of the cursor is gone: list from the beginning";
            return Err(Error::new(ErrorKind::Gone, text));
        }
        let mut letters = letters.filter(|letter| filter.matches(letter));
        let items: Vec<_> = letters.by_ref().take(limit).collect();
        let more = letters.next().and(items.last());
        Ok(DeadLetterPage {
            next: more.map(|letter| letter.id.clone()),
            items,
        })
    }

    async fn get(&self, id: &str) -> Result<DeadLetter> {
        Ok(self.one(id).await?.letter)
    }

    async fn count(&self, selection: &Selection) -> Result<u64> {
        Ok(self.selected(selection).await?.len() as u64)
    }

    /// Letters of subscriptions that this process has not stay where they are.
    async fn redrive(&self, selection: &Selection, limit: usize) -> Result<Acted> {
        let selected = self.selected(selection).await?;
        let mut acted = Acted {
            matched: selected.len() as u64,
            done: 0,
        };
        for Kept { letter, item } in selected {
            if acted.done == limit as u64 {
                break;
            }
            let (DeadBody::Event(event), Ok(subscription)) =
                (letter.body, self.subscription(&letter.subscription))
            else {
                continue;
            };
            if self.take_out(&item).await? {
                let now = self.stream.wire.config.clock.now();
                subscription.change(|queue| queue.redrive(&letter.id, event, now));
                acted.done += 1;
            }
        }
        Ok(acted)
    }

    async fn discard(&self, selection: &Selection) -> Result<Acted> {
        let selected = self.selected(selection).await?;
        let mut acted = Acted {
            matched: selected.len() as u64,
            done: 0,
        };
        for Kept { letter, item } in selected {
            if self.take_out(&item).await? {
                acted.done += 1;
                if let Ok(subscription) = self.subscription(&letter.subscription) {
                    subscription.change(|queue| queue.discard(&letter.id));
                }
            }
        }
        Ok(acted)
    }

    async fn replace(&self, id: &str, data: Data) -> Result<DeadLetter> {
        let Kept { mut letter, item } = self.one(id).await?;
        let DeadBody::Event(event) = &letter.body else {
            let text = "undecodable input has no data to replace";
            return Err(Error::new(ErrorKind::Conflict, text));
        };
        let original = event.data().cloned();
        let edited = event.to_builder().data(data).build()?;
        letter.original = letter.original.or(original);
        letter.body = DeadBody::Event(edited);
        let edited = letter::write(self.stream.form(), &letter)?;
        let mut swap = redis::cmd("EVAL");
        swap.arg(REPLACE).arg(1).arg(&self.stream.dead_letters);
        swap.arg(item).arg(edited);
        let swapped = self.stream.wire.try_run::<u64>(&swap).await;
        if swapped.map_err(map_write)? == 0 {
            let text = "somebody else changed or took the dead letter meanwhile";
            return Err(Error::new(ErrorKind::Conflict, text));
        }
        Ok(letter)
    }
}
