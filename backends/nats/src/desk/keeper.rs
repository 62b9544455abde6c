//! The one task that changes a subscription: a batch of steps, one write, the answers. See the picture
//! in [`crate::desk`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::changes::NewDead;
use fanfare_fleet::Slot;
use tokio::sync::mpsc;

use super::{Entry, Step, letter};
use crate::connect::{Failed, Wire};
use crate::letter::Letter;
use crate::log::Log;
use crate::record::{self, Dead, LetterKey, Record, letter_name};

/// The most steps of one write.
const STEPS: usize = 256;
/// Between attempts while others keep being quicker: the first pause.
const YIELD: Duration = Duration::from_millis(1);
/// Of the largest message that the server takes, the part that a record may fill before nothing new is
/// claimed: what is leased may still become an exception.
const FULL: usize = 2;

/// What became of a write.
enum Outcome {
    /// With its revision, if that still is the last one.
    Written(Option<u64>),
    /// Another process was quicker.
    Outdone,
}

/// Does the steps of one subscription, one batch after the other.
pub(super) struct Keeper {
    name: SubscriptionName,
    wire: Arc<Wire>,
    log: Arc<Log>,
    writes: Arc<AtomicU64>,
    entry: Entry,
    /// Of the record that the entry was made from, 0 where there was none; none: nothing is known.
    revision: Option<u64>,
    /// Of the state that it was read from.
    life: u64,
}

impl Keeper {
    pub(super) fn new(
        name: SubscriptionName,
        wire: Arc<Wire>,
        log: Arc<Log>,
        writes: Arc<AtomicU64>,
    ) -> Self {
        Self {
            name,
            wire,
            log,
            writes,
            entry: Entry::default(),
            revision: None,
            life: 0,
        }
    }

    pub(super) async fn run(mut self, mut waiting: mpsc::Receiver<Box<dyn Step>>) {
        while let Some(first) = waiting.recv().await {
            let mut steps = vec![first];
            while steps.len() < STEPS
                && let Ok(more) = waiting.try_recv()
            {
                steps.push(more);
            }
            let done = self.commit(&mut steps).await;
            for step in steps {
                let outcome = done.as_ref().copied().map_err(Error::duplicate);
                step.answer(outcome);
            }
        }
    }

    async fn commit(&mut self, steps: &mut [Box<dyn Step>]) -> Result<()> {
        let until = self.wire.patience();
        let strict = steps.iter().any(|step| step.is_strict());
        let mut pause = YIELD;
        if self.life != self.wire.life() && !self.is_local() {
            self.revision = None;
        }
        loop {
            let is_fresh = self.revision.is_none();
            if is_fresh {
                self.load().await?;
            }
            let now = self.wire.now();
            self.entry.wake = false;
            self.entry.waste.clear();
            for step in steps.iter_mut() {
                step.run(&mut self.entry, now);
            }
            if self.is_local() {
                return self.keep_here().await;
            }
            if !self.entry.is_dirty() {
                if is_fresh || !strict {
                    return Ok(());
                }
                // What was found may be old: look again on what is there now.
                self.revision = None;
                continue;
            }
            match self.write(until).await {
                Ok(Outcome::Written(revision)) => {
                    self.written().await;
                    self.revision = revision;
                    return Ok(());
                }
                Ok(Outcome::Outdone) => self.revision = None,
                Err(error) => {
                    self.revision = None;
                    return Err(error);
                }
            }
            if self.wire.config.clock.now() >= until {
                let message = "other processes were quicker all the time";
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
            // Not in step with the others.
            let jitter = self.wire.who.rotate_left(pause.subsec_nanos()) % 1_000;
            self.wire
                .config
                .clock
                .sleep(pause + Duration::from_micros(jitter))
                .await;
            pause = (pause * 2).min(YIELD * 32);
        }
    }

    /// Whether it lives in this process only.
    fn is_local(&self) -> bool {
        let record = self.entry.record.as_ref();
        record.is_some_and(|record| record.spec.ephemeral)
    }

    async fn keep_here(&mut self) -> Result<()> {
        self.revision = Some(0);
        let now = self.wire.patience();
        self.bury(now).await?;
        self.written().await;
        Ok(())
    }

    async fn load(&mut self) -> Result<()> {
        self.life = self.wire.life();
        let subject = self.wire.names.record(&self.name);
        let kept = self.wire.last(&subject).await?;
        let (revision, data) = kept.map_or((0, Bytes::new()), |kept| (kept.seq, kept.data));
        let record = if data.is_empty() {
            None
        } else {
            Some(record::decode(&self.name, &data)?)
        };
        let before = self.entry.record.take();
        let remains = before.map(|record| (record.created, record.cursor.lowest_unsettled() - 1));
        self.entry = Entry {
            remains: remains.or(self.entry.remains),
            deleted: record.is_none() && revision > 0,
            full: self.is_large(data.len()),
            record,
            ..Entry::default()
        };
        self.revision = Some(revision);
        Ok(())
    }

    fn is_large(&self, bytes: usize) -> bool {
        bytes > self.wire.client.max_payload() / FULL
    }

    /// Writes the entry over the record that it was made from.
    async fn write(&mut self, until: Timestamp) -> Result<Outcome> {
        self.bury(until).await?;
        let serial = self.writes.fetch_add(1, Ordering::Relaxed);
        let data = match &mut self.entry.record {
            Some(record) => {
                record.mark(self.wire.who, serial);
                record::encode(record)?
            }
            None => Bytes::new(),
        };
        self.entry.full = self.is_large(data.len());
        let subject = self.wire.names.record(&self.name);
        let expected = self.revision;
        let mut asked_before = false;
        loop {
            match self.wire.write(&subject, &data, expected, until).await {
                Ok(Ok(written)) => return Ok(Outcome::Written(Some(written.seq))),
                Ok(Err(refusal)) if refusal.is_conflict() => {
                    return if asked_before {
                        self.whose(serial).await
                    } else {
                        Ok(Outcome::Outdone)
                    };
                }
                Ok(Err(refusal)) => return Err(refusal.error()),
                // Whether it was written or not, it can be written once only.
                Err(Failed::Broken | Failed::Silent) if self.wire.config.clock.now() < until => {
                    asked_before = true;
                }
                Err(Failed::NotSent(_)) if asked_before => {
                    let message = "whether a subscription was changed is not known";
                    return Err(Error::new(ErrorKind::Unknown, message));
                }
                Err(failed) => return Err(failed.error()),
            }
        }
    }

    /// After a write without an answer, the same was refused: by our own first one, or by another's?
    async fn whose(&self, serial: u64) -> Result<Outcome> {
        let subject = self.wire.names.record(&self.name);
        let Some(kept) = self.wire.last(&subject).await? else {
            return Ok(Outcome::Outdone);
        };
        if kept.data.is_empty() {
            // A deletion, ours or not: in the end the same.
            return Ok(match &self.entry.record {
                None => Outcome::Written(None),
                Some(_) => Outcome::Outdone,
            });
        }
        let there = record::decode(&self.name, &kept.data)?;
        if !there.has_mark(self.wire.who, serial) {
            return Ok(Outcome::Outdone);
        }
        // Others may have written since.
        Ok(Outcome::Written(None))
    }

    /// Writes the letters of what the steps gave up, before the record that names them.
    async fn bury(&mut self, until: Timestamp) -> Result<()> {
        let Some(record) = &mut self.entry.record else {
            return Ok(());
        };
        let tag = u32::from_le_bytes(
            self.wire
                .who
                .to_le_bytes()
                .first_chunk()
                .copied()
                .unwrap_or_default(),
        );
        let mut letters = Vec::new();
        for dead in record.cursor.take_dead() {
            let key = (dead.position, dead.generation);
            let at = u64::try_from(dead.last_failure.as_millis()).unwrap_or(0);
            let named = Dead { at, tag };
            let before = record.redriven.remove(&dead.position);
            record.dead.insert(key, named);
            self.entry.touched = true;
            letters.push((key, named, dead, before));
        }
        for (key, named, dead, before) in letters {
            let body = self.body(&dead, before).await?;
            let data = Letter::new(dead, body).encode()?;
            let subject = self.wire.names.letter(&self.name, &letter_name(key, named));
            let written = self.wire.write(&subject, &data, None, until).await;
            written
                .map_err(Failed::harmless)?
                .map_err(|refusal| refusal.error())?;
            if let Some((key, old)) = before
                && letter_name(key, old) != letter_name(key, named)
            {
                self.entry.waste.push((key, old));
            }
        }
        let record = self.entry.record.as_mut();
        let settled = record.map(Record::settled_redriven);
        self.entry.waste.extend(settled.unwrap_or_default());
        Ok(())
    }

    /// What was to be delivered: as it was redriven, or as it stands in the log.
    async fn body(&self, dead: &NewDead, before: Option<(LetterKey, Dead)>) -> Result<Slot> {
        if let Some((key, old)) = before
            && let Some((_, letter)) = letter(&self.wire, &self.name, key, old).await?
        {
            return Ok(letter.body);
        }
        let mut found = self.log.find(&[dead.position]).await?;
        let row = found.remove(&dead.position);
        Ok(row.map_or(Slot::Raw(Bytes::new()), |row| row.slot.clone()))
    }

    /// The entry is what is there now.
    async fn written(&mut self) {
        self.entry.touched = false;
        if let Some(record) = &mut self.entry.record {
            record.cursor.clean();
        }
        let names = &self.wire.names;
        if self.entry.wake {
            self.log.wake(Some(self.name.as_str()));
            if !self.is_local() {
                let subject = names.wake(&self.name);
                // Who does not hear it asks again by himself.
                let _ = self.wire.client.publish(subject, self.wire.name()).await;
            }
        }
        for (key, dead) in std::mem::take(&mut self.entry.waste) {
            let subject = names.letter(&self.name, &letter_name(key, dead));
            let body = format!("{{\"filter\":\"{subject}\"}}");
            let call = format!("$JS.API.STREAM.PURGE.{}", names.state());
            // What is left lies there unread.
            let _ = self.wire.client.publish(call, body.into()).await;
        }
    }
}
