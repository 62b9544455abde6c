//! The verdict after somebody deleted the stream, or what is kept beside it. Less can hold then: what was
//! settled comes again, attempts start anew, dead letters and the memory of duplicates are gone. What
//! must hold is that later events lose nothing, and that a loss is told once.

use std::collections::{BTreeMap, BTreeSet};

use super::{Held, SENTENCES, Verdict};
use crate::chaos::load::SUBSCRIPTIONS;
use crate::chaos::record::Entry;

/// How often the stream was deleted, and how often anything was.
#[derive(Debug, Default)]
struct Deletions {
    streams: u64,
    all: u64,
    /// Those of streams whose loss was told.
    told: u64,
}

/// One event.
#[derive(Debug, Default)]
struct Life {
    acknowledged: bool,
    /// How often the stream had been deleted before it was published; where a subscription is a queue,
    /// which gets nothing before it is made again, how often that had been told.
    streams: u64,
    delivered: BTreeSet<String>,
}

/// None where nothing was deleted.
pub(super) fn judge(record: &[Entry], held: &Held) -> Option<Verdict> {
    let mut deletions = Deletions::default();
    let mut verdict = Verdict::default();
    let mut lives: BTreeMap<&str, Life> = BTreeMap::new();
    for entry in record {
        match entry {
            Entry::Deleted { stream } => {
                deletions.all += 1;
                deletions.streams += u64::from(*stream);
            }
            Entry::Told => deletions.told = deletions.streams,
            Entry::Intent { id } => {
                lives.entry(id).or_default().streams = if held.forgets {
                    deletions.told
                } else {
                    deletions.streams
                };
            }
            Entry::Acked { id, duplicate, .. } => {
                lives.entry(id).or_default().acknowledged = true;
                verdict.duplicates += u64::from(*duplicate);
            }
            Entry::Delivered { sub, id, .. } => {
                verdict.deliveries += 1;
                match lives.get_mut(id.as_str()) {
                    Some(life) => {
                        let again = !life.delivered.insert(sub.clone());
                        verdict.redelivered += u64::from(again);
                    }
                    None => invented(&mut verdict, id),
                }
            }
            // For a moment there is no such subscription.
            Entry::Wrong { what } if what.contains("was answered 404") => {}
            Entry::Wrong { what } => verdict.broken.push(what.clone()),
            _ => {}
        }
    }
    if deletions.all == 0 {
        return None;
    }
    let kept: BTreeSet<&str> = held.history.iter().map(|(id, _)| id.as_str()).collect();
    for id in kept.iter().filter(|id| !lives.contains_key(*id)) {
        invented(&mut verdict, id);
    }
    for (id, life) in &lives {
        verdict.acknowledged += u64::from(life.acknowledged);
        if life.acknowledged && life.streams == deletions.streams {
            later(&mut verdict, id, life, held.forgets || kept.contains(id));
        }
    }
    books(&mut verdict, held, &deletions);
    verdict.breaches = verdict.broken.len() as u64;
    verdict.broken.truncate(SENTENCES);
    Some(verdict)
}

fn invented(verdict: &mut Verdict, id: &str) {
    verdict.invented += 1;
    verdict.broken.push(format!("{id}: nobody published it"));
}

/// An event that was published after the last deletion of the stream.
fn later(verdict: &mut Verdict, id: &str, life: &Life, kept: bool) {
    if !kept {
        verdict.lost += 1;
        verdict.broken.push(format!("{id}: acknowledged and LOST"));
        return;
    }
    let mut lost = false;
    for sub in SUBSCRIPTIONS {
        if !life.delivered.contains(sub) {
            lost = true;
            let what = format!("{sub}: {id} was never delivered");
            verdict.broken.push(what);
        }
    }
    verdict.lost += u64::from(lost);
}

fn books(verdict: &mut Verdict, held: &Held, deletions: &Deletions) {
    if !held.audit_ok {
        verdict.broken.push("the audit finds a breach".into());
    }
    for (sub, balance) in &held.audit {
        if balance.unsettled != 0 {
            let unsettled = balance.unsettled;
            let what = format!("{sub}: {unsettled} unsettled after all was settled");
            verdict.broken.push(what);
        }
    }
    if held.losses != deletions.streams {
        let (losses, streams) = (held.losses, deletions.streams);
        let what = format!("{losses} losses told, the stream was deleted {streams} times");
        verdict.broken.push(what);
    }
}
