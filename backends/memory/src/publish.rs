//! Appending: duplicates are answered, a full log evicts what everybody has settled.

use fanfare_core::backend::Published;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_cursor::block_of;

use crate::backend::{Inner, MemoryBackend};
use crate::config::MemoryConfig;

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
            if !self.evict_one() {
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

    /// Makes room by one event that nobody needs; whether there was one.
    fn evict_one(&mut self) -> bool {
        let claimed = self
            .subscriptions
            .values()
            .map(|s| s.cursor.frontier())
            .min()
            .unwrap_or(u64::MAX);
        while let Some(position) = self
            .log
            .oldest_dense()
            .filter(|position| *position <= claimed)
        {
            if self.is_needed(position) {
                self.log.set_aside();
                continue;
            }
            if let Some(slot) = self.log.evict_oldest() {
                self.account_evicted(position, &slot.event);
            }
            return true;
        }
        for position in self.log.aside() {
            if !self.is_needed(position) {
                if let Some(slot) = self.log.evict_aside(position) {
                    self.account_evicted(position, &slot.event);
                }
                return true;
            }
        }
        false
    }

    fn is_needed(&self, position: u64) -> bool {
        let Some(slot) = self.log.get(position) else {
            return false;
        };
        self.subscriptions
            .values()
            .any(|subscription| subscription.needs(position, &slot.event))
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
