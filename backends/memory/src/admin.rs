//! Operating subscriptions, and the audit.

use std::collections::BTreeMap;

use async_trait::async_trait;
use fanfare_core::admin::{
    Admin, Audited, Breach, Counts, Health, Put, SeekTo, Sought, StreamStats, SubscriptionInfo,
};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::pattern::PatternSet;
use fanfare_core::position::Position;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::{block_of, block_range};

use crate::backend::{Inner, MemoryBackend};
use crate::subscription::{Subscription, cursor_options};

/// The most ids named in one breach.
const MAX_IDS: usize = 1_000;

impl Inner {
    fn info(&self, subscription: &Subscription) -> SubscriptionInfo {
        let lowest = subscription.cursor.lowest_unsettled();
        let mut from_there = self.log.after(lowest.saturating_sub(1));
        let oldest = from_there.find(|(position, slot)| subscription.needs(*position, &slot.event));
        SubscriptionInfo {
            spec: SubscriptionSpec {
                patterns: subscription.spec.patterns.clone(),
                ..subscription.spec.clone()
            },
            created: subscription.created,
            paused: subscription.paused,
            counts: self.counts(subscription),
            frontier: subscription.cursor.frontier().into(),
            oldest_unsettled: oldest.map(|(_, slot)| slot.recorded),
        }
    }

    fn counts(&self, subscription: &Subscription) -> Counts {
        let place = subscription.cursor.place();
        let tally = subscription.cursor.tally();
        let kept = self
            .log
            .after(0)
            .filter(|(p, slot)| subscription.concerns(*p, &slot.event))
            .count() as u64;
        let above = self
            .log
            .after(place.frontier)
            .filter(|(p, slot)| subscription.concerns(*p, &slot.event))
            .count();
        let evicted: u64 = subscription.evicted.values().sum();
        let closed = place.closed;
        let letters = self.dead.values().filter(|dead| {
            dead.letter.subscription == subscription.spec.name
                && dead.generation == place.generation
        });
        Counts {
            published: kept
                + evicted
                + tally.extra
                + closed.acknowledged
                + closed.dropped
                + closed.dead,
            acknowledged: tally.acknowledged + closed.acknowledged,
            dropped: tally.dropped + closed.dropped,
            dead: letters.count() as u64,
            in_flight: subscription.cursor.in_flight(),
            waiting: subscription.cursor.waiting() + above as u64,
        }
    }

    /// Compares the log with the counters block by block.
    fn breaches(&self, subscription: &Subscription) -> Vec<Breach> {
        let frontier = subscription.cursor.frontier();
        let mut balance: BTreeMap<u64, i64> = BTreeMap::new();
        let mut add = |block: u64, n: u64, sign: i64| {
            *balance.entry(block).or_default() += sign * i64::try_from(n).unwrap_or(i64::MAX);
        };
        for (position, slot) in self
            .log
            .after(0)
            .take_while(|(position, _)| *position <= frontier)
        {
            if subscription.concerns(position, &slot.event) {
                add(block_of(position), 1, 1);
            }
        }
        for (block, evicted) in &subscription.evicted {
            add(*block, *evicted, 1);
        }
        for (block, tally, open) in subscription.cursor.blocks() {
            add(block, tally.extra, 1);
            add(
                block,
                tally.acknowledged + tally.dropped + tally.dead + open,
                -1,
            );
        }
        let broken = balance.into_iter().filter(|(_, missing)| *missing != 0);
        broken
            .map(|(block, missing)| self.breach(subscription, block, missing))
            .collect()
    }

    fn breach(&self, subscription: &Subscription, block: u64, missing: i64) -> Breach {
        let range = block_range(block);
        let inside = self
            .log
            .after(range.start().saturating_sub(1))
            .take_while(|(p, _)| range.contains(p));
        let ids = inside.filter(|(p, slot)| subscription.concerns(*p, &slot.event));
        Breach {
            first: (*range.start()).into(),
            last: (*range.end()).into(),
            missing,
            ids: ids
                .take(MAX_IDS)
                .map(|(_, slot)| slot.event.id().to_string())
                .collect(),
        }
    }

    /// The last position recorded before `time`.
    fn before(&self, time: Timestamp) -> u64 {
        let first = self.log.after(0).find(|(_, slot)| slot.recorded >= time);
        first.map_or(self.log.head(), |(position, _)| position - 1)
    }

    /// Just before the oldest event kept.
    fn earliest(&self) -> u64 {
        self.log.first().map_or(self.log.head(), |first| first - 1)
    }

    fn base_of(&self, start: Start) -> u64 {
        match start {
            Start::Earliest => self.earliest(),
            Start::Latest => self.log.head(),
            Start::Time(time) => self.before(time),
            Start::After(position) => position.low().min(self.log.head()),
        }
    }

    fn place_of(&self, to: &SeekTo) -> Result<u64> {
        Ok(match to {
            SeekTo::Earliest => self.earliest(),
            SeekTo::Latest => self.log.head(),
            SeekTo::Time(time) => self.before(*time),
            SeekTo::After(position) => position.low().min(self.log.head()),
            SeekTo::Event(id) => {
                let mut found = self
                    .log
                    .after(0)
                    .filter(|(_, slot)| slot.event.id().to_string() == *id);
                match (found.next(), found.next()) {
                    (Some((position, _)), None) => position - 1,
                    (None, _) => {
                        return Err(Error::new(
                            ErrorKind::NotFound,
                            format!("there is no event `{id}`"),
                        ));
                    }
                    (Some(_), Some(_)) => {
                        return Err(Error::new(
                            ErrorKind::Conflict,
                            format!("several sources have an event `{id}`: seek to a position"),
                        ));
                    }
                }
            }
        })
    }
}

#[async_trait]
impl Admin for MemoryBackend {
    async fn put(&self, spec: &SubscriptionSpec) -> Result<Put> {
        spec.check()?;
        let now = self.config.clock.now();
        let mut inner = self.lock()?;
        let base = inner.base_of(spec.start);
        let Some(there) = inner.subscriptions.get_mut(&spec.name) else {
            inner.subscriptions.insert(
                spec.name.clone(),
                Subscription::new(spec.clone(), now, base),
            );
            inner.room.forget();
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
        there.cursor.set_options(cursor_options(&kept));
        there.spec = kept;
        Ok(Put::Changed)
    }

    async fn set_patterns(&self, name: &SubscriptionName, patterns: PatternSet) -> Result<()> {
        let mut inner = self.lock()?;
        let from = inner.log.head() + 1;
        let subscription = inner.subscription_mut(name)?;
        subscription.interest.change(from, patterns.clone());
        subscription.spec.patterns = patterns;
        Ok(())
    }

    async fn delete(&self, name: &SubscriptionName, force: bool) -> Result<()> {
        let mut inner = self.lock()?;
        let counts = inner.counts(inner.subscription(name)?);
        if !force && (counts.unsettled() > 0 || counts.dead > 0) {
            return Err(counts.refuse_deletion(name));
        }
        if let Some(subscription) = inner.subscriptions.remove(name) {
            subscription.wake.notify_waiters();
        }
        inner
            .dead
            .retain(|_, dead| dead.letter.subscription != *name);
        Ok(())
    }

    async fn get(&self, name: &SubscriptionName) -> Result<SubscriptionInfo> {
        let inner = self.lock()?;
        Ok(inner.info(inner.subscription(name)?))
    }

    async fn spec(&self, name: &SubscriptionName) -> Result<SubscriptionSpec> {
        Ok(self.lock()?.subscription(name)?.spec.clone())
    }

    async fn list(&self) -> Result<Vec<SubscriptionInfo>> {
        let inner = self.lock()?;
        let durable = inner.subscriptions.values().filter(|s| !s.spec.ephemeral);
        Ok(durable
            .map(|subscription| inner.info(subscription))
            .collect())
    }

    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()> {
        let mut inner = self.lock()?;
        let subscription = inner.subscription_mut(name)?;
        subscription.paused = paused;
        subscription.wake.notify_waiters();
        Ok(())
    }

    async fn seek(&self, name: &SubscriptionName, to: &SeekTo, dry_run: bool) -> Result<Sought> {
        let mut inner = self.lock()?;
        let base = inner.place_of(to)?;
        let subscription = inner.subscription(name)?;
        let from = subscription.cursor.frontier();
        let events = inner
            .log
            .after(base)
            .filter(|(p, slot)| subscription.interest.matches(*p, slot.event.event_type()))
            .count();
        if !dry_run {
            let subscription = inner.subscription_mut(name)?;
            subscription.cursor.seek(base);
            subscription.bodies.clear();
            subscription.evicted.clear();
            subscription.wake.notify_waiters();
            inner.room.forget();
        }
        Ok(Sought {
            from: from.into(),
            to: base.into(),
            events: events as u64,
        })
    }

    async fn audit(&self, name: Option<&SubscriptionName>) -> Result<Vec<Audited>> {
        let inner = self.lock()?;
        let chosen: Vec<&Subscription> = match name {
            Some(name) => vec![inner.subscription(name)?],
            None => inner
                .subscriptions
                .values()
                .filter(|s| !s.spec.ephemeral)
                .collect(),
        };
        let audited = |subscription: &Subscription| Audited {
            name: subscription.spec.name.clone(),
            counts: inner.counts(subscription),
            breaches: inner.breaches(subscription),
        };
        Ok(chosen.into_iter().map(audited).collect())
    }

    async fn stats(&self) -> Result<StreamStats> {
        let inner = self.lock()?;
        let head = inner.log.head();
        Ok(StreamStats {
            events: inner.log.len() as u64,
            bytes: inner.log.bytes() as u64,
            first: inner.log.first().map(Position::from),
            last: (head > 0).then(|| head.into()),
            ..StreamStats::default()
        })
    }

    async fn health(&self) -> Health {
        match self.lock() {
            Ok(inner) => Health {
                ok: true,
                detail: format!("{} events in memory", inner.log.len()),
            },
            Err(error) => Health {
                ok: false,
                detail: error.to_string(),
            },
        }
    }
}
