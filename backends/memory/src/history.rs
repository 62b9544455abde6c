//! Past events, as long as they are kept.

use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::history::{
    DeliveryInfo, DeliveryState, EventPage, EventQuery, EventStatus, History, Recorded,
};
use fanfare_core::position::Position;
use fanfare_cursor::Standing;

use crate::backend::{Inner, MemoryBackend};
use crate::log::Slot;
use crate::subscription::Subscription;

/// The most events looked at for one page.
const MAX_SCAN: usize = 20_000;

impl Inner {
    fn deliveries_of(&self, position: u64, event: &Event) -> Vec<DeliveryInfo> {
        let durable = self.subscriptions.values().filter(|s| !s.spec.ephemeral);
        durable
            .filter_map(|subscription| self.delivery_of(subscription, position, event))
            .collect()
    }

    fn delivery_of(
        &self,
        subscription: &Subscription,
        position: u64,
        event: &Event,
    ) -> Option<DeliveryInfo> {
        let name = &subscription.spec.name;
        let dead = self
            .dead
            .values()
            .find(|d| d.letter.subscription == *name && d.letter.position.low() == position);
        let standing = subscription.cursor.standing(position);
        if dead.is_none() && standing.is_none() && !subscription.concerns(position, event) {
            return None;
        }
        let (state, attempts, due) = match (dead, standing) {
            (_, Some(exception)) => {
                let (state, due) = match exception.standing {
                    Standing::Leased(_) => (DeliveryState::InFlight, None),
                    Standing::Waiting(due) => (DeliveryState::Waiting, Some(due)),
                    _ => (DeliveryState::Waiting, None),
                };
                (state, exception.attempts, due)
            }
            (Some(dead), None) => (DeliveryState::Dead, dead.letter.attempts, None),
            (None, None) if position > subscription.cursor.frontier() => {
                (DeliveryState::Waiting, 0, None)
            }
            (None, None) => (DeliveryState::Settled, 1, None),
        };
        Some(DeliveryInfo {
            subscription: name.clone(),
            state,
            attempts,
            due,
        })
    }

    fn matches(&self, query: &EventQuery, position: u64, slot: &Slot) -> bool {
        let event = &slot.event;
        query
            .patterns
            .as_ref()
            .is_none_or(|patterns| patterns.matches(event.event_type()))
            && query.since.is_none_or(|since| slot.recorded >= since)
            && query.until.is_none_or(|until| slot.recorded < until)
            && query
                .key
                .as_deref()
                .is_none_or(|key| event.key() == Some(key))
            && query
                .source
                .as_deref()
                .is_none_or(|source| **event.source() == *source)
            && query.status.is_none_or(|status| {
                EventStatus::of(&self.deliveries_of(position, event)) == status
            })
    }
}

fn recorded(position: u64, slot: &Slot) -> Recorded {
    Recorded {
        position: position.into(),
        recorded: slot.recorded,
        event: slot.event.clone(),
    }
}

#[async_trait]
impl History for MemoryBackend {
    async fn events(&self, query: &EventQuery) -> Result<EventPage> {
        let inner = self.lock()?;
        let log = &inner.log;
        let walk: Box<dyn Iterator<Item = (u64, &Slot)> + Send> = if query.descending {
            Box::new(log.before(query.after.map_or(u64::MAX, Position::low)))
        } else {
            if let (Some(after), Some(first)) = (query.after, log.first())
                && after != Position::START
                && after.low() + 1 < first
            {
                return Err(Error::new(
                    ErrorKind::Gone,
                    "retention has passed this cursor",
                ));
            }
            Box::new(log.after(query.after.map_or(0, Position::low)))
        };
        let mut page = EventPage::default();
        let mut last = None;
        for (looked, (position, slot)) in walk.enumerate() {
            if page.items.len() == query.limit || looked == MAX_SCAN {
                page.next = last;
                break;
            }
            last = Some(Position::from(position));
            if inner.matches(query, position, slot) {
                page.items.push(recorded(position, slot));
            }
        }
        Ok(page)
    }

    async fn event(&self, id: &str, source: Option<&str>) -> Result<Vec<Recorded>> {
        let inner = self.lock()?;
        let wanted = |event: &Event| {
            source.is_none_or(|source| **event.source() == *source) && event.id().to_string() == id
        };
        let found = inner.log.after(0).filter(|(_, slot)| wanted(&slot.event));
        Ok(found
            .map(|(position, slot)| recorded(position, slot))
            .collect())
    }

    async fn deliveries(&self, position: Position) -> Result<Vec<DeliveryInfo>> {
        let inner = self.lock()?;
        let missing = || {
            Error::new(
                ErrorKind::NotFound,
                format!("there is no event at {position}"),
            )
        };
        let slot = inner.log.get(position.low()).ok_or_else(missing)?;
        Ok(inner.deliveries_of(position.low(), &slot.event))
    }

    async fn head(&self) -> Result<Position> {
        Ok(self.lock()?.log.head().into())
    }

    async fn wait_beyond(&self, position: Position, wait: Duration) -> Result<Position> {
        let deadline = self.config.clock.now() + wait;
        loop {
            let appended = self.shared.appended.notified();
            tokio::pin!(appended);
            appended.as_mut().enable();
            let head = self.head().await?;
            if head > position || self.config.clock.now() >= deadline {
                return Ok(head);
            }
            tokio::select! {
                () = appended => {}
                () = self.config.clock.sleep_until(deadline) => {}
            }
        }
    }
}
