//! Retention: events that every subscription has settled go after their time, or earlier where the
//! stream is bounded and full; never on another service's stream. What is removed is counted in the records first, so that the books still
//! balance.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use fanfare_core::error::Result;
use fanfare_cursor::block_of;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::books::Snapshot;
use crate::desk::{Desk, Entry};
use crate::log::PAGE;
use crate::loss;
use crate::row::Row;

/// How often old events are looked for.
const EVERY: Duration = Duration::from_mins(1);
/// Of the bound of a stream that is full, the part that is removed at once where it may be.
const ROOM: u64 = 4;

/// Removes what may go.
#[derive(Debug)]
pub(crate) struct Retention {
    desk: Arc<Desk>,
    /// One at a time.
    trimming: tokio::sync::Mutex<()>,
}

impl Retention {
    pub(crate) fn start(desk: &Arc<Desk>, closed: watch::Receiver<bool>) -> Arc<Self> {
        let retention = Arc::new(Self {
            desk: desk.clone(),
            trimming: tokio::sync::Mutex::default(),
        });
        tokio::spawn(run(Arc::downgrade(&retention), closed));
        retention
    }

    /// Removes settled events, whatever their age, until there is room.
    pub(crate) async fn make_room(&self) -> Result<()> {
        if self.desk.wire.config.form.is_foreign() {
            return Ok(());
        }
        let bound = self.desk.wire.config.max_bytes;
        let _alone = self.trimming.lock().await;
        let extent = self.desk.wire.extent().await?;
        if bound == 0 || extent.bytes < bound - bound / ROOM {
            return Ok(());
        }
        self.trim(extent.last_seq, bound / ROOM).await
    }

    async fn keep(&self) -> Result<()> {
        let wire = &self.desk.wire;
        wire.learn_time().await?;
        if wire.config.form.is_foreign() {
            return Ok(());
        }
        let _alone = self.trimming.lock().await;
        let until = wire.now() - wire.config.retention;
        let extent = wire.extent().await?;
        let kept = match self.desk.log.since(until).await? {
            Some(first) => first.position,
            None => extent.last_seq + 1,
        };
        if kept > extent.first_seq.max(1) {
            self.trim(kept - 1, u64::MAX).await?;
        }
        Ok(())
    }

    /// Removes events up to `until` that nobody needs, about `most` bytes of them.
    async fn trim(&self, until: u64, most: u64) -> Result<()> {
        let needs = self.needs().await?;
        let lowest = needs.iter().map(|(need, _)| need.lowest).min();
        let until = lowest.map_or(until, |lowest| until.min(lowest.saturating_sub(1)));
        let first = self.desk.wire.extent().await?.first_seq;
        let (mut at, mut bytes) = (first.saturating_sub(1), 0);
        let mut needs = needs;
        'pages: loop {
            let rows = self.desk.log.after(at, PAGE).await?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                if row.position > until || bytes >= most {
                    break 'pages;
                }
                count(&mut needs, &row);
                bytes += row.size as u64;
                at = row.position;
            }
        }
        if at < first || !self.note(needs, at).await? {
            return Ok(());
        }
        let wire = &self.desk.wire;
        let up_to = at.saturating_sub(wire.base());
        loss::note_removal(wire, up_to).await?;
        let call = format!("STREAM.PURGE.{}", wire.names.log());
        let body = json!({ "seq": up_to + 1 });
        wire.call::<Value>(&call, &body).await?;
        self.desk.log.begin_at(at);
        Ok(())
    }

    async fn needs(&self) -> Result<Vec<(Snapshot, BTreeMap<u64, u64>)>> {
        let mut needs = Vec::new();
        for name in self.desk.names().await? {
            let snapshot = self.desk.snapshot(&name).await?;
            needs.extend(snapshot.map(|snapshot| (snapshot, BTreeMap::new())));
        }
        Ok(needs)
    }

    /// Counts in every record what is about to be removed; whether it may be.
    async fn note(&self, needs: Vec<(Snapshot, BTreeMap<u64, u64>)>, at: u64) -> Result<bool> {
        let noted = needs.len();
        for (seen, counts) in needs {
            let name = seen.stored.spec.name.clone();
            let noted = self
                .desk
                .change(&name, move |entry, _| note(entry, &seen, &counts, at));
            if !noted.await? {
                return Ok(false);
            }
        }
        // Whoever began meanwhile may want what is here.
        Ok(self.needs().await?.len() == noted)
    }
}

fn count(needs: &mut [(Snapshot, BTreeMap<u64, u64>)], row: &Row) {
    for (need, blocks) in needs {
        if row.position > need.counted_after && need.matches(row) {
            *blocks.entry(block_of(row.position)).or_default() += 1;
        }
    }
}

fn note(entry: &mut Entry, seen: &Snapshot, counts: &BTreeMap<u64, u64>, at: u64) -> bool {
    let Some(record) = &mut entry.record else {
        // Deleted meanwhile: it needs nothing.
        return true;
    };
    let same = record.version == seen.stored.version && record.trimmed == seen.trimmed;
    if !same || record.cursor.lowest_unsettled() <= at {
        return false;
    }
    if at <= record.trimmed {
        return true;
    }
    for (block, n) in counts {
        *record.removed.entry(*block).or_default() += n;
    }
    record.trimmed = at;
    record.close_books();
    entry.touched = true;
    true
}

async fn run(retention: Weak<Retention>, mut closed: watch::Receiver<bool>) {
    loop {
        let clock = retention
            .upgrade()
            .map(|r| r.desk.wire.config.clock.clone());
        let Some(clock) = clock else {
            return;
        };
        tokio::select! {
            _ = closed.wait_for(|closed| *closed) => return,
            () = clock.sleep(EVERY) => {}
        }
        let Some(retention) = retention.upgrade() else {
            return;
        };
        if let Err(error) = retention.keep().await {
            let stream = &retention.desk.wire.config.stream;
            tracing::warn!(stream, %error, "cannot trim the stream");
        }
    }
}
