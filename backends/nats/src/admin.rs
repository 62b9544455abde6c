//! Operating subscriptions. Counting reads the log and is in [`crate::books`].

use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::admin::{
    Admin, Audited, Health, Put, SeekTo, Sought, StreamStats, SubscriptionInfo,
};
use fanfare_core::advice::Advice;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::pattern::PatternSet;
use fanfare_core::position::Position;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;
use fanfare_fleet::unknown;
use serde_json::{Value, json};

use crate::backend::NatsBackend;
use crate::consume::narrow;
use crate::desk::Entry;
use crate::record::Record;
use crate::streams::Extent;

/// How long the server may take to show that it is well.
const HEALTH: Duration = Duration::from_secs(1);

impl Extent {
    /// Just before the oldest event kept.
    fn earliest(&self) -> u64 {
        self.first_seq.saturating_sub(1).min(self.last_seq)
    }
}

impl NatsBackend {
    async fn base_of(&self, start: Start) -> Result<u64> {
        let extent = self.wire.extent().await?;
        Ok(match start {
            Start::Earliest => extent.earliest(),
            Start::Latest => extent.last_seq,
            Start::Time(time) => self.before(time, extent).await?,
            Start::After(position) => narrow(position.0).min(extent.last_seq),
        })
    }

    /// The last position recorded before `time`.
    async fn before(&self, time: Timestamp, extent: Extent) -> Result<u64> {
        let first = self.log.since(time).await?;
        Ok(first.map_or(extent.last_seq, |row| row.position - 1))
    }

    async fn place_of(&self, to: &SeekTo) -> Result<u64> {
        let extent = self.wire.extent().await?;
        Ok(match to {
            SeekTo::Earliest => extent.earliest(),
            SeekTo::Latest => extent.last_seq,
            SeekTo::Time(time) => self.before(*time, extent).await?,
            SeekTo::After(position) => narrow(position.0).min(extent.last_seq),
            SeekTo::Event(id) => self.find_id(id).await? - 1,
        })
    }

    /// The position of the only event with this id.
    async fn find_id(&self, id: &str) -> Result<u64> {
        let head = self.log.caught_up().await?;
        let mut found = Vec::new();
        self.scan(0, head, |row| {
            let event = row.slot.event();
            if event.is_some_and(|event| event.id().to_string() == id) {
                found.push(row.position);
            }
            found.len() < 2
        })
        .await?;
        let shown = id.escape_debug();
        match found[..] {
            [position] => Ok(position),
            [] => Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no event `{shown}`"),
            )),
            _ => Err(Error::new(
                ErrorKind::Conflict,
                format!("several sources have an event `{shown}`: seek to a position"),
            )),
        }
    }

    /// What was removed while the subscription was made is not its any more.
    async fn begin_at_what_is_there(&self, name: &SubscriptionName) -> Result<()> {
        let first = self.wire.extent().await?.earliest();
        self.on(name, move |record, _| {
            let late = record.cursor.place().base < first && record.cursor.frontier() < first;
            if late {
                record.seek(first);
            }
            late
        })
        .await
        .map(drop)
    }

    /// Changes a subscription that is there; `change` says whether it did anything.
    async fn on(
        &self,
        name: &SubscriptionName,
        mut change: impl FnMut(&mut Record, Timestamp) -> bool + Send + 'static,
    ) -> Result<bool> {
        let changed = self.desk.change(name, move |entry, now| {
            let record = entry.record.as_mut()?;
            let changed = change(record, now);
            entry.touched |= changed;
            entry.wake |= changed;
            Some(changed)
        });
        changed.await?.ok_or_else(|| unknown(name))
    }
}

/// Creates it, or takes over other options.
fn put(entry: &mut Entry, spec: &SubscriptionSpec, base: u64, now: Timestamp) -> Result<Put> {
    let Some(there) = &mut entry.record else {
        entry.record = Some(Record::new(spec.clone(), now, base)?);
        entry.deleted = false;
        entry.touched = true;
        return Ok(Put::Created);
    };
    there.spec.agrees_with(spec)?;
    let kept = SubscriptionSpec {
        start: there.spec.start,
        ..spec.clone()
    };
    if kept == there.spec {
        return Ok(Put::Unchanged);
    }
    there.change(kept);
    entry.touched = true;
    Ok(Put::Changed)
}

#[async_trait]
impl Admin for NatsBackend {
    async fn put(&self, spec: &SubscriptionSpec) -> Result<Put> {
        self.check_open()?;
        spec.check()?;
        let base = self.base_of(spec.start).await?;
        let wanted = spec.clone();
        let put = self
            .desk
            .change(&spec.name, move |entry, now| put(entry, &wanted, base, now));
        let put = put.await??;
        if put == Put::Created && spec.start != Start::Latest {
            self.begin_at_what_is_there(&spec.name).await?;
        }
        Ok(put)
    }

    async fn set_patterns(&self, name: &SubscriptionName, patterns: PatternSet) -> Result<()> {
        self.check_open()?;
        let after = self.wire.extent().await?.last_seq;
        self.on(name, move |record, _| {
            record.change_patterns(&patterns, after);
            true
        })
        .await
        .map(drop)
    }

    async fn delete(&self, name: &SubscriptionName, force: bool) -> Result<()> {
        self.check_open()?;
        let snapshot = self.known(name).await?;
        if !force {
            let counts = self.counts(&snapshot).await?;
            if counts.unsettled() > 0 || counts.dead > 0 {
                return Err(counts.refuse_deletion(name));
            }
        }
        let deleted = self.desk.change(name, |entry, _| {
            entry.touched = entry.record.take().is_some();
            entry.deleted = true;
            entry.wake = true;
        });
        deleted.await?;
        let call = format!("STREAM.PURGE.{}", self.wire.names.state());
        let letters = json!({ "filter": self.wire.names.letters(name) });
        self.wire.call::<Value>(&call, &letters).await.map(drop)
    }

    async fn get(&self, name: &SubscriptionName) -> Result<SubscriptionInfo> {
        self.check_open()?;
        self.info(self.known(name).await?).await
    }

    async fn spec(&self, name: &SubscriptionName) -> Result<SubscriptionSpec> {
        self.check_open()?;
        Ok(self.known(name).await?.stored.spec)
    }

    async fn list(&self) -> Result<Vec<SubscriptionInfo>> {
        self.check_open()?;
        let mut listed = Vec::new();
        for snapshot in self.durable().await? {
            listed.push(self.info(snapshot).await?);
        }
        Ok(listed)
    }

    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()> {
        self.check_open()?;
        self.on(name, move |record, _| {
            std::mem::replace(&mut record.paused, paused) != paused
        })
        .await
        .map(drop)
    }

    async fn seek(&self, name: &SubscriptionName, to: &SeekTo, dry_run: bool) -> Result<Sought> {
        self.check_open()?;
        let before = self.known(name).await?;
        let base = self.place_of(to).await?;
        let head = self.log.caught_up().await?;
        if !dry_run {
            let moved = self.desk.change(name, move |entry, _| {
                let record = entry.record.as_mut()?;
                entry.waste.extend(record.redriven.values().copied());
                record.seek(base);
                entry.touched = true;
                entry.wake = true;
                Some(())
            });
            moved.await?.ok_or_else(|| unknown(name))?;
        }
        let mut events = 0;
        self.scan(base, head, |row| {
            events += u64::from(row.matches(&before.stored));
            true
        })
        .await?;
        Ok(Sought {
            from: Position(before.place.frontier.into()),
            to: Position(base.into()),
            events,
        })
    }

    async fn audit(&self, name: Option<&SubscriptionName>) -> Result<Vec<Audited>> {
        self.check_open()?;
        self.watch.look().await?;
        let chosen = match name {
            Some(name) => vec![self.known(name).await?],
            None => self.durable().await?,
        };
        let mut audited = Vec::with_capacity(chosen.len());
        for snapshot in &chosen {
            audited.push(self.audited(snapshot).await?);
        }
        Ok(audited)
    }

    async fn stats(&self) -> Result<StreamStats> {
        self.check_open()?;
        let (losses, lost) = self.watch.look().await?;
        let extent = self.wire.extent().await?;
        let newest = extent.last_seq;
        Ok(StreamStats {
            events: extent.messages,
            bytes: extent.bytes,
            first: (extent.messages > 0).then(|| Position(extent.first_seq.into())),
            last: (newest > 0).then(|| Position(newest.into())),
            losses,
            lost,
        })
    }

    async fn health(&self) -> Health {
        let ill = |detail: String| Health { ok: false, detail };
        if let Err(error) = self.check_open() {
            return ill(error.to_string());
        }
        if !self.wire.is_connected() {
            return ill("there is no connection to nats".into());
        }
        if let Some(trouble) = self.log.trouble() {
            return ill(trouble);
        }
        let patience = self.wire.config.clock.sleep(HEALTH);
        tokio::select! {
            extent = self.wire.extent() => match extent {
                Ok(_) => Health {
                    ok: true,
                    detail: format!("stream {}", self.wire.config.stream),
                },
                Err(error) => ill(error.to_string()),
            },
            () = patience => ill("nats does not answer".into()),
        }
    }

    async fn advice(&self) -> Result<Vec<Advice>> {
        self.check_open()?;
        Ok(self.wire.advice())
    }
}
