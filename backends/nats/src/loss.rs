//! What is gone although nobody here removed it: a stream that somebody deleted or purged. It is made
//! again, noted once, told once, and the books are mended so that they balance again.
//!
//! A stream that is made again counts from 1. So that positions only grow, each of its lives has a
//! generation, which stands above the sequence in every position.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::subscription::SubscriptionName;
use fanfare_cursor::block_of;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::books::Snapshot;
use crate::connect::{Failed, Wire};
use crate::desk::{Desk, Entry};
use crate::error::unexpected;
use crate::log::PAGE;
use crate::streams::Holds;

/// How often it is looked whether something is gone.
const EVERY: Duration = Duration::from_secs(5);
/// How often a note or a record is written again that others changed meanwhile.
const TRIES: usize = 10;

/// What is known of the log, beside the log itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// When the server made its stream: another time is another stream.
    made: String,
    /// How often it was made again.
    pub(crate) generation: u64,
    /// Up to which sequence events may be missing: removed by us, or lost and told.
    trimmed: u64,
    /// How often something was lost.
    pub(crate) losses: u64,
    /// How many events were, as far as known.
    pub(crate) lost: u64,
}

impl Note {
    /// What it should be, by what the server holds; `head`: the last sequence that was seen. Others
    /// remove from their stream what they like: there [`Watch`] finds out whether somebody needed it.
    fn next(&self, holds: &Holds, head: u64, is_foreign: bool) -> Self {
        let (first, made) = (holds.state.first_seq.max(1), &holds.created);
        if self.made != *made {
            return Self {
                made: made.clone(),
                generation: self.generation + 1,
                trimmed: 0,
                losses: self.losses + 1,
                lost: self.lost + head.saturating_sub(self.trimmed),
            };
        }
        let gone = if is_foreign {
            0
        } else {
            (first - 1).saturating_sub(self.trimmed)
        };
        Self {
            trimmed: self.trimmed.max(first - 1),
            losses: self.losses + u64::from(gone > 0),
            lost: self.lost + gone,
            ..self.clone()
        }
    }
}

/// Makes streams that are missing, and notes what is gone; `known`: as this process last read it.
pub(crate) async fn note(wire: &Wire, known: Option<(&Note, u64)>) -> Result<(Note, Holds)> {
    let is_foreign = wire.config.form.is_foreign();
    for _ in 0..TRIES {
        let holds = wire.make_streams(known.is_some()).await?;
        let kept = wire.last(&wire.names.note()).await?;
        let revision = kept.as_ref().map_or(0, |kept| kept.seq);
        let there: Option<Note> = match &kept {
            Some(kept) => {
                let read = serde_json::from_slice(&kept.data);
                Some(read.map_err(|e| unexpected("a read of its note").because(e))?)
            }
            None => known.map(|(note, _)| note.clone()),
        };
        let head = known.map_or(holds.state.last_seq, |(_, head)| head);
        let next = match &there {
            Some(there) => there.next(&holds, head, is_foreign),
            None => Note {
                made: holds.created.clone(),
                trimmed: holds.state.first_seq.max(1) - 1,
                ..Note::default()
            },
        };
        let told = there
            .as_ref()
            .is_some_and(|there| there.losses < next.losses);
        if kept.is_some() && there.as_ref() == Some(&next) || write(wire, &next, revision).await? {
            if told {
                tell(wire, &next);
            }
            return Ok((next, holds));
        }
    }
    let message = "the note of the stream was changed by others all the time";
    Err(Error::new(ErrorKind::Unavailable, message))
}

fn tell(wire: &Wire, note: &Note) {
    let (stream, lost) = (&wire.config.stream, note.lost);
    tracing::error!(
        stream,
        lost,
        "somebody deleted events; later ones are delivered"
    );
}

/// Notes that events up to this sequence are about to be removed by us.
pub(crate) async fn note_removal(wire: &Wire, up_to: u64) -> Result<()> {
    let trim = |note: &mut Note| note.trimmed = note.trimmed.max(up_to);
    change(wire, trim).await.map(drop)
}

async fn change(wire: &Wire, change: impl Fn(&mut Note)) -> Result<Note> {
    for _ in 0..TRIES {
        let (mut next, _) = note(wire, None).await?;
        let kept = wire.last(&wire.names.note()).await?;
        change(&mut next);
        if write(wire, &next, kept.map_or(0, |kept| kept.seq)).await? {
            return Ok(next);
        }
    }
    let message = "the note of the stream was changed by others all the time";
    Err(Error::new(ErrorKind::Unavailable, message))
}

/// Whether nobody else was quicker.
async fn write(wire: &Wire, note: &Note, over: u64) -> Result<bool> {
    let text = serde_json::to_vec(note).map_err(|e| unexpected("its note").because(e))?;
    let subject = wire.names.note();
    let written = wire
        .write(&subject, &Bytes::from(text), Some(over), wire.patience())
        .await;
    match written.map_err(Failed::harmless)? {
        Ok(_) => Ok(true),
        Err(refusal) if refusal.is_conflict() => Ok(false),
        Err(refusal) => Err(refusal.error()),
    }
}

/// Looks whether something is gone, and deals with it.
#[derive(Debug)]
pub(crate) struct Watch {
    desk: Arc<Desk>,
    /// As last seen, and whether all books were mended since.
    known: tokio::sync::Mutex<(Note, bool)>,
}

impl Watch {
    pub(crate) fn start(desk: &Arc<Desk>, known: Note, closed: watch::Receiver<bool>) -> Arc<Self> {
        let watch = Arc::new(Self {
            desk: desk.clone(),
            known: tokio::sync::Mutex::new((known, false)),
        });
        tokio::spawn(run(Arc::downgrade(&watch), closed));
        watch
    }

    /// How often something was lost, and how many events.
    pub(crate) async fn look(&self) -> Result<(u64, u64)> {
        let mut known = self.known.lock().await;
        let wire = &self.desk.wire;
        let head = self.desk.log.head().saturating_sub(wire.base());
        let (note, holds) = note(wire, Some((&known.0, head))).await?;
        if note != known.0 {
            wire.set_generation(note.generation);
            *known = (note.clone(), false);
        }
        let gone = wire.base() + holds.state.first_seq.max(1) - 1;
        self.desk.log.begin_at(gone);
        let is_foreign = wire.config.form.is_foreign();
        if (note.losses > 0 || is_foreign) && !known.1 {
            let lost_to = wire.base() + note.trimmed;
            let mut missed = 0;
            for name in self.desk.names().await? {
                missed = missed.max(self.mend(&name, lost_to).await?);
            }
            if is_foreign && missed > 0 {
                let lose = |note: &mut Note| {
                    note.losses += 1;
                    note.lost += missed;
                };
                let changed = change(wire, lose).await?;
                (known.0.losses, known.0.lost) = (changed.losses, changed.lost);
                tell(wire, &changed);
            }
            known.1 = true;
            self.desk.log.wake(None);
        }
        Ok((known.0.losses, known.0.lost))
    }

    /// Counts as removed what the books know and the log has no more; answers how many positions of
    /// this life of the log, at most, the subscription still needed.
    async fn mend(&self, name: &SubscriptionName, lost_to: u64) -> Result<u64> {
        for _ in 0..TRIES {
            let Some(seen) = self.desk.snapshot(name).await? else {
                return Ok(0);
            };
            if seen.counted_after >= lost_to {
                return Ok(0);
            }
            let lowest = seen.lowest;
            let kept = self.kept(&seen, lost_to).await?;
            let mended = self
                .desk
                .change(name, move |entry, _| mend(entry, &seen, &kept, lost_to));
            if mended.await? {
                let needed = Some(lowest).filter(|lowest| *lowest > self.desk.wire.base());
                return Ok(needed.map_or(0, |lowest| (lost_to + 1).saturating_sub(lowest)));
            }
        }
        Ok(0)
    }

    /// The matching events that are still there, of the block in which the loss ends.
    async fn kept(&self, seen: &Snapshot, lost_to: u64) -> Result<BTreeMap<u64, u64>> {
        let (mut kept, mut at) = (BTreeMap::new(), lost_to);
        loop {
            let rows = self.desk.log.after(at, PAGE).await?;
            let Some(last) = rows.last() else {
                return Ok(kept);
            };
            at = last.position;
            for row in rows {
                let inside = row.position <= seen.place.frontier;
                if !inside || block_of(row.position) > block_of(lost_to) {
                    return Ok(kept);
                }
                if seen.matches(&row) {
                    *kept.entry(block_of(row.position)).or_default() += 1;
                }
            }
        }
    }
}

/// Whether the record is still as it was seen.
fn mend(entry: &mut Entry, seen: &Snapshot, kept: &BTreeMap<u64, u64>, lost_to: u64) -> bool {
    let Some(record) = &mut entry.record else {
        return true;
    };
    let place = record.cursor.place();
    if place != seen.place || record.version != seen.stored.version {
        return false;
    }
    for (block, tally, open) in record.cursor.blocks() {
        if block > block_of(lost_to) {
            continue;
        }
        let accounts = tally.acknowledged + tally.dropped + tally.dead + open;
        let there = tally.extra + kept.get(&block).copied().unwrap_or(0);
        record.removed.insert(block, accounts.saturating_sub(there));
    }
    record.trimmed = lost_to;
    // Who still has it in memory does not get it any more.
    record.cursor.pass(lost_to);
    record.close_books();
    entry.touched = true;
    true
}

async fn run(watch: Weak<Watch>, mut closed: watch::Receiver<bool>) {
    loop {
        let Some(wire) = watch.upgrade().map(|watch| watch.desk.wire.clone()) else {
            return;
        };
        tokio::select! {
            _ = closed.wait_for(|closed| *closed) => return,
            () = wire.missing.notified() => {}
            () = wire.config.clock.sleep(EVERY) => {}
        }
        let Some(watch) = watch.upgrade() else {
            return;
        };
        if let Err(error) = watch.look().await {
            tracing::debug!(%error, "cannot look whether events are gone");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(created: &str, first: u64, last: u64) -> Holds {
        let text = serde_json::json!({
            "created": created,
            "config": { "retention": "limits", "discard": "new" },
            "state": { "messages": 0, "bytes": 0, "first_seq": first, "last_seq": last },
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_loss_is_counted_once_and_what_we_removed_is_none() {
        let note = Note {
            made: "a".into(),
            trimmed: 4,
            ..Note::default()
        };
        assert_eq!(note.next(&holds("a", 5, 9), 9, false), note);
        assert_eq!(note.next(&holds("a", 2, 9), 9, false), note);
        let purged = note.next(&holds("a", 8, 9), 9, false);
        assert_eq!((purged.losses, purged.lost, purged.trimmed), (1, 3, 7));
        assert_eq!(purged.next(&holds("a", 8, 12), 12, false), purged);
        let again = purged.next(&holds("b", 1, 2), 12, false);
        assert_eq!((again.generation, again.losses, again.lost), (1, 2, 8));
        assert_eq!(again.next(&holds("b", 1, 5), 5, false), again);
    }

    #[test]
    fn what_others_remove_from_their_stream_is_no_loss_by_itself() {
        let note = Note {
            made: "a".into(),
            ..Note::default()
        };
        let aged = note.next(&holds("a", 8, 9), 9, true);
        assert_eq!((aged.losses, aged.lost, aged.trimmed), (0, 0, 7));
        let again = aged.next(&holds("b", 1, 2), 9, true);
        assert_eq!((again.generation, again.losses), (1, 1));
    }
}
