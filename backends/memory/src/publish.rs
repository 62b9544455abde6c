//! Appending: duplicates are answered, a full log evicts what everybody has settled.

use fanfare_core::backend::Published;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_cursor::block_of;
use hashbrown::HashSet;

use crate::backend::{Inner, MemoryBackend};
use crate::config::MemoryConfig;

/// A full stream is searched for settled events that lie behind unsettled ones when this part of
/// its bound was settled since the last search.
const SWEEP_PART: usize = 64;

impl MemoryBackend {
    pub(crate) fn append(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        let recorded = self.config.clock.now();
        let mut inner = self.lock()?;
        let mut answers = Vec::with_capacity(events.len());
        for event in events {
            answers.push(inner.append(event, recorded, &self.config));
        }
        for subscription in inner.subscriptions.values() {
            subscription.wake.notify_waiters();
        }
        drop(inner);
        self.shared.appended.notify_waiters();
        Ok(answers)
    }
}

impl Inner {
    fn append(
        &mut self,
        event: &Event,
        recorded: fanfare_core::timestamp::Timestamp,
        config: &MemoryConfig,
    ) -> Result<Published> {
        if event.bytes().len() > config.max_data_bytes {
            let limit = config.max_data_bytes;
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("data above {limit} bytes"),
            ));
        }
        let hash = match self.log.find(event) {
            Ok(first) => {
                return Ok(Published {
                    position: Some(first.into()),
                    duplicate: true,
                });
            }
            Err(hash) => hash,
        };
        while self.log.len() >= config.max_events
            || self.log.bytes() + event.size() > config.max_bytes
        {
            if !self.evict_settled() && !self.sweep(config.max_events / SWEEP_PART) {
                return Err(Error::new(
                    ErrorKind::Full,
                    "the stream is full of unsettled events",
                ));
            }
        }
        let position = self.log.append(event.clone(), hash, recorded);
        Ok(Published {
            position: Some(position.into()),
            duplicate: false,
        })
    }

    /// Drops the oldest event where it lies before everything unsettled; whether it did.
    fn evict_settled(&mut self) -> bool {
        let Some(position) = self.log.oldest_dense() else {
            return false;
        };
        if position >= self.room.unsettled_from {
            if self.room.looked == Some(self.room.passed) {
                return false;
            }
            self.room.looked = Some(self.room.passed);
            let lowest = self
                .subscriptions
                .values()
                .map(|s| s.cursor.lowest_unsettled());
            self.room.unsettled_from = lowest.min().unwrap_or(u64::MAX);
        }
        position < self.room.unsettled_from && self.evict(position)
    }

    /// Drops what is settled although older events are not, and keeps those aside. It costs as much
    /// as there are unsettled events, so it waits until `at_least` more are settled; whether
    /// anything was dropped.
    fn sweep(&mut self, at_least: usize) -> bool {
        let wait_for = self
            .room
            .swept
            .map(|swept| swept + (at_least as u64).max(1));
        if wait_for.is_some_and(|passed| self.room.passed < passed) {
            return false;
        }
        self.room.swept = Some(self.room.passed);
        let frontiers = self.subscriptions.values().map(|s| s.cursor.frontier());
        let claimed = frontiers.min().unwrap_or(u64::MAX);
        let needed: HashSet<u64> = self
            .subscriptions
            .values()
            .flat_map(|s| s.cursor.unsettled())
            .collect();
        let mut dropped = false;
        for position in self.log.aside() {
            if !needed.contains(&position) {
                dropped |= self.evict(position);
            }
        }
        while let Some(position) = self.log.oldest_dense().filter(|p| *p <= claimed) {
            if needed.contains(&position) {
                self.log.set_aside();
            } else {
                dropped |= self.evict(position);
            }
        }
        dropped
    }

    fn evict(&mut self, position: u64) -> bool {
        let Some(slot) = self.log.evict(position) else {
            return false;
        };
        self.account_evicted(position, &slot.event);
        true
    }

    fn account_evicted(&mut self, position: u64, event: &Event) {
        let kept = self
            .log
            .first()
            .map_or_else(|| block_of(self.log.head()), block_of);
        for subscription in self.subscriptions.values_mut() {
            if subscription.concerns(position, event) {
                *subscription.evicted.entry(block_of(position)).or_default() += 1;
            }
            if subscription
                .evicted
                .keys()
                .next()
                .is_some_and(|block| *block < kept)
            {
                subscription.evicted = subscription.evicted.split_off(&kept);
                subscription.cursor.close_below(kept);
            }
        }
    }
}
