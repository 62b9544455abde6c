//! Listing, redriving, discarding and mending dead letters. Which there are stands in the record of
//! their subscription, and going from there is what happens once; the messages only say more of them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use fanfare_core::data::Data;
use fanfare_core::dead_letter::{
    Acted, DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetters, Selection,
};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::subscription::SubscriptionName;
use fanfare_fleet::Slot;
use futures::StreamExt as _;

use crate::backend::NatsBackend;
use crate::connect::Failed;
use crate::desk::Entry;
use crate::letter::Letter;
use crate::record::{Dead, LetterKey, letter_id, letter_name, read_letter_id};

/// Letters that are read at once.
const AT_ONCE: usize = 32;
/// The most letters redriven or discarded in one step.
const STEP: usize = 500;

/// A letter's name: they sort by id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    id: String,
    name: SubscriptionName,
    key: LetterKey,
    at: u64,
    tag: u32,
}

impl Named {
    fn new(name: &SubscriptionName, key: LetterKey, dead: Dead) -> Self {
        Self {
            id: letter_id(name, key, dead),
            name: name.clone(),
            key,
            at: dead.at,
            tag: dead.tag,
        }
    }

    fn dead(&self) -> Dead {
        Dead {
            at: self.at,
            tag: self.tag,
        }
    }
}

impl NatsBackend {
    /// The letters that are there, oldest first: of this subscription, or of all.
    async fn named(&self, of: Option<&SubscriptionName>) -> Result<Vec<Named>> {
        let names = if let Some(name) = of {
            vec![name.clone()]
        } else {
            let mut all = self.desk.names().await?;
            all.extend(self.desk.known());
            all.sort();
            all.dedup();
            all
        };
        let mut letters = Vec::new();
        for name in names {
            let of = name.clone();
            let there = self.desk.change(&name, move |entry, _| {
                let dead = entry.record.as_ref().map(|record| &record.dead);
                let dead = dead.into_iter().flatten();
                dead.map(|(key, dead)| Named::new(&of, *key, *dead))
                    .collect::<Vec<_>>()
            });
            letters.extend(there.await?);
        }
        letters.sort_unstable();
        Ok(letters)
    }

    async fn read(&self, named: &Named) -> Result<Option<(u64, Letter)>> {
        self.desk.letter(&named.name, named.key, named.dead()).await
    }

    async fn told(&self, named: Named) -> Result<Option<DeadLetter>> {
        let letter = self.read(&named).await?;
        Ok(letter.map(|(_, letter)| letter.told(&named.name, named.key, named.dead())))
    }

    /// Whether the letter named by this id is there.
    async fn found(&self, id: &str) -> Result<Option<Named>> {
        let Some((name, key, dead)) = read_letter_id(id) else {
            return Ok(None);
        };
        let there = self.desk.change(&name, move |entry, _| {
            let record = entry.record.as_ref();
            record.is_some_and(|record| record.dead.get(&key) == Some(&dead))
        });
        Ok(there.await?.then(|| Named::new(&name, key, dead)))
    }

    /// What is meant, oldest first.
    async fn selected(&self, selection: &Selection) -> Result<Vec<Named>> {
        match selection {
            Selection::Ids(ids) => {
                let mut found = Vec::new();
                for id in ids {
                    found.extend(self.found(id).await?);
                }
                found.sort_unstable();
                found.dedup();
                Ok(found)
            }
            Selection::Filter(filter) => {
                let all = self.named(filter.subscription.as_ref()).await?;
                let only_name = DeadLetterFilter {
                    subscription: filter.subscription.clone(),
                    ..DeadLetterFilter::default()
                };
                if *filter == only_name {
                    return Ok(all);
                }
                let mut chosen = Vec::new();
                let reading = all.into_iter().map(|named| async move {
                    let letter = self.told(named.clone()).await?;
                    Ok::<_, Error>(
                        letter
                            .filter(|letter| filter.matches(letter))
                            .map(|_| named),
                    )
                });
                let reading: Vec<_> = reading.collect();
                let mut reading = futures::stream::iter(reading).buffered(AT_ONCE);
                while let Some(named) = reading.next().await {
                    chosen.extend(named?);
                }
                Ok(chosen)
            }
        }
    }

    /// Puts letters back as fresh deliveries; how many.
    async fn redrive_some(&self, name: &SubscriptionName, some: &[Named]) -> Result<u64> {
        let reading = some.iter().map(|named| async move {
            let letter = self.read(named).await?;
            let event = letter.and_then(|(_, letter)| letter.body.event().cloned());
            Ok::<_, Error>(event.map(|event| {
                let key = event.key().map(str::to_owned);
                (named.key, named.dead(), key)
            }))
        });
        let reading: Vec<_> = reading.collect();
        let mut reading = futures::stream::iter(reading).buffered(AT_ONCE);
        let mut readable = Vec::new();
        while let Some(read) = reading.next().await {
            // Undecodable input cannot be delivered.
            readable.extend(read?);
        }
        let redriven = self
            .desk
            .change(name, move |entry, _| redrive(entry, &readable));
        redriven.await
    }

    async fn discard_some(&self, name: &SubscriptionName, some: &[Named]) -> Result<u64> {
        let keys: Vec<_> = some.iter().map(|named| (named.key, named.dead())).collect();
        let discarded = self
            .desk
            .change(name, move |entry, _| discard(entry, &keys));
        discarded.await
    }
}

fn redrive(entry: &mut Entry, letters: &[(LetterKey, Dead, Option<String>)]) -> u64 {
    let mut done = 0;
    let Some(record) = &mut entry.record else {
        return done;
    };
    for (key, dead, lane) in letters {
        if record.dead.get(key) != Some(dead) {
            continue;
        }
        record.dead.remove(key);
        let (position, generation) = *key;
        record.cursor.redrive(position, generation, lane.as_deref());
        // One from before a seek may be on its way already.
        let before = match record.cursor.standing(position) {
            Some(_) => record.redriven.insert(position, (*key, *dead)),
            None => Some((*key, *dead)),
        };
        entry.waste.extend(before);
        done += 1;
    }
    entry.touched |= done > 0;
    entry.wake |= done > 0;
    done
}

fn discard(entry: &mut Entry, letters: &[(LetterKey, Dead)]) -> u64 {
    let mut done = 0;
    let Some(record) = &mut entry.record else {
        return done;
    };
    for (key, dead) in letters {
        if record.dead.get(key) != Some(dead) {
            continue;
        }
        record.dead.remove(key);
        record.cursor.discard(key.0, key.1);
        entry.waste.push((*key, *dead));
        done += 1;
    }
    entry.touched |= done > 0;
    entry.wake |= done > 0;
    done
}

fn by_subscription(letters: &[Named]) -> BTreeMap<&SubscriptionName, Vec<Named>> {
    let mut all: BTreeMap<_, Vec<Named>> = BTreeMap::new();
    for letter in letters {
        all.entry(&letter.name).or_default().push(letter.clone());
    }
    all
}

fn gone(id: &str) -> Error {
    let shown = id.escape_debug();
    Error::new(
        ErrorKind::NotFound,
        format!("there is no dead letter `{shown}`"),
    )
}

#[async_trait]
impl DeadLetters for NatsBackend {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<DeadLetterPage> {
        self.check_open()?;
        if after.is_some_and(|after| read_letter_id(after).is_none()) {
            return Err(Error::invalid("/cursor", "not a cursor of ours"));
        }
        let mut all = self.named(filter.subscription.as_ref()).await?;
        all.retain(|named| after.is_none_or(|after| named.id.as_str() > after));
        let reading = all.into_iter().map(|named| self.told(named));
        let reading: Vec<_> = reading.collect();
        let mut reading = futures::stream::iter(reading).buffered(AT_ONCE);
        let mut page = DeadLetterPage::default();
        while let Some(letter) = reading.next().await {
            let Some(letter) = letter?.filter(|letter| filter.matches(letter)) else {
                continue;
            };
            if page.items.len() == limit {
                page.next = page.items.last().map(|last| last.id.clone());
                break;
            }
            page.items.push(letter);
        }
        Ok(page)
    }

    async fn get(&self, id: &str) -> Result<DeadLetter> {
        self.check_open()?;
        let found = self.found(id).await?.ok_or_else(|| gone(id))?;
        self.told(found).await?.ok_or_else(|| gone(id))
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
        for (name, letters) in by_subscription(&selected) {
            for some in letters.chunks(STEP) {
                done += self.redrive_some(name, some).await?;
            }
        }
        Ok(Acted { matched, done })
    }

    async fn discard(&self, selection: &Selection) -> Result<Acted> {
        self.check_open()?;
        let selected = self.selected(selection).await?;
        let mut done = 0;
        for (name, letters) in by_subscription(&selected) {
            for some in letters.chunks(STEP) {
                done += self.discard_some(name, some).await?;
            }
        }
        Ok(Acted {
            matched: selected.len() as u64,
            done,
        })
    }

    async fn replace(&self, id: &str, data: Data) -> Result<DeadLetter> {
        self.check_open()?;
        let named = self.found(id).await?.ok_or_else(|| gone(id))?;
        loop {
            let read = self.read(&named).await?;
            let (version, mut letter) = read.ok_or_else(|| gone(id))?;
            let Slot::Event(event) = &letter.body else {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "undecodable input has no data to replace",
                ));
            };
            let edited = event.to_builder().data(data.clone()).build()?;
            let before = std::mem::replace(&mut letter.body, Slot::Event(edited));
            letter.original.get_or_insert(before);
            let name = letter_name(named.key, named.dead());
            let subject = self.wire.names.letter(&named.name, &name);
            let until = self.wire.patience();
            let bytes = letter.encode()?;
            let written = self
                .wire
                .write(&subject, &bytes, Some(version), until)
                .await;
            match written.map_err(Failed::error)? {
                Ok(_) => return Ok(letter.told(&named.name, named.key, named.dead())),
                Err(refusal) if refusal.is_conflict() => {}
                Err(refusal) => return Err(refusal.error()),
            }
        }
    }
}
