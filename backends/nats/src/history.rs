//! Past events, as long as they are kept. There is no index but time and position: the rest is found by
//! reading.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event_type::EventType;
use fanfare_core::history::{
    DeliveryInfo, DeliveryState, EventPage, EventQuery, EventStatus, History, Recorded,
};
use fanfare_core::position::Position;
use fanfare_core::timestamp::Timestamp;
use fanfare_cursor::Standing;

use crate::backend::NatsBackend;
use crate::consume::narrow;
use crate::log::PAGE;
use crate::record::{Dead, LetterKey, Record};
use crate::row::Row;

/// The most events looked at for one page.
const MAX_SCAN: usize = 20_000;
/// No subscription has this name: it stands for whoever only waits for more events.
const NOBODY: &str = "";

/// One event's delivery to one subscription.
struct Delivered {
    state: DeliveryState,
    attempts: u32,
    due: Option<Timestamp>,
    letter: Option<(LetterKey, Dead)>,
}

fn delivered(record: &Record, position: u64, event_type: &EventType) -> Option<Delivered> {
    let place = record.cursor.place();
    let letters = record.dead.range((position, 0)..=(position, u64::MAX));
    let letter = letters.last().map(|(key, dead)| (*key, *dead));
    let standing = record.cursor.standing(position);
    let concerns = position > place.base && record.interest.matches(position.into(), event_type);
    if letter.is_none() && standing.is_none() && !concerns {
        return None;
    }
    let plain = |state, attempts| Delivered {
        state,
        attempts,
        due: None,
        letter: None,
    };
    Some(match (standing, letter) {
        (Some(exception), _) => match exception.standing {
            Standing::Leased(_) => plain(DeliveryState::InFlight, exception.attempts),
            Standing::Waiting(due) => Delivered {
                due: Some(due),
                ..plain(DeliveryState::Waiting, exception.attempts)
            },
            _ => plain(DeliveryState::Waiting, exception.attempts),
        },
        (None, Some(letter)) => Delivered {
            letter: Some(letter),
            ..plain(DeliveryState::Dead, 0)
        },
        (None, None) if position > place.frontier => plain(DeliveryState::Waiting, 0),
        (None, None) => plain(DeliveryState::Settled, 1),
    })
}

impl NatsBackend {
    /// The deliveries of these events, by position and then by subscription name.
    async fn deliveries_of(&self, rows: &[Arc<Row>]) -> Result<BTreeMap<u64, Vec<DeliveryInfo>>> {
        let types = rows.iter().filter_map(|row| {
            let event = row.slot.event()?;
            Some((row.position, event.event_type().clone()))
        });
        let types: Arc<[_]> = types.collect();
        let mut all: BTreeMap<u64, Vec<DeliveryInfo>> = BTreeMap::new();
        for name in self.desk.names().await? {
            let types = types.clone();
            let found = self.desk.change(&name, move |entry, _| {
                let record = entry.record.as_ref();
                let found = types.iter().filter_map(|(position, event_type)| {
                    Some((*position, delivered(record?, *position, event_type)?))
                });
                found.collect::<Vec<_>>()
            });
            for (position, delivered) in found.await? {
                let mut attempts = delivered.attempts;
                if let Some((key, dead)) = delivered.letter
                    && let Some((_, letter)) = self.desk.letter(&name, key, dead).await?
                {
                    attempts = letter.told(&name, key, dead).attempts;
                }
                all.entry(position).or_default().push(DeliveryInfo {
                    subscription: name.clone(),
                    state: delivered.state,
                    attempts,
                    due: delivered.due,
                });
            }
        }
        Ok(all)
    }

    /// Those of the rows that are asked for.
    async fn asked_for(&self, query: &EventQuery, rows: &[Arc<Row>]) -> Result<Vec<bool>> {
        let mut deliveries = match query.status {
            Some(_) => Some(self.deliveries_of(rows).await?),
            None => None,
        };
        let chosen = rows.iter().map(|row| {
            let mut status = || {
                let own = deliveries.as_mut()?.remove(&row.position);
                Some(EventStatus::of(&own.unwrap_or_default()))
            };
            matches(query, row) && (query.status.is_none() || query.status == status())
        });
        Ok(chosen.collect())
    }
}

fn matches(query: &EventQuery, row: &Row) -> bool {
    let Some(event) = row.slot.event() else {
        return false;
    };
    let patterns = query.patterns.as_ref();
    patterns.is_none_or(|patterns| patterns.matches(event.event_type()))
        && query.since.is_none_or(|since| row.recorded >= since)
        && query.until.is_none_or(|until| row.recorded < until)
        && query
            .key
            .as_deref()
            .is_none_or(|key| event.key() == Some(key))
        && query
            .source
            .as_deref()
            .is_none_or(|source| **event.source() == *source)
}

fn recorded(row: &Row) -> Option<Recorded> {
    Some(Recorded {
        position: Position(row.position.into()),
        recorded: row.recorded,
        event: row.slot.event()?.clone(),
    })
}

#[async_trait]
impl History for NatsBackend {
    async fn events(&self, query: &EventQuery) -> Result<EventPage> {
        self.check_open()?;
        let mut page = EventPage::default();
        self.log.caught_up().await?;
        let after = query.after.map(|position| narrow(position.0));
        if let Some(after) = after.filter(|after| !query.descending && *after > 0) {
            let first = self.wire.extent().await?.first_seq;
            if after + 1 < first {
                let message = "retention has passed this cursor";
                return Err(Error::new(ErrorKind::Gone, message));
            }
        }
        let (mut at, mut looked) = (after, 0);
        loop {
            let limit = PAGE.min(query.limit.max(1) * 4);
            let rows = if query.descending {
                self.log.before(at, limit).await?
            } else {
                self.log.after(at.unwrap_or(0), limit).await?
            };
            if rows.is_empty() {
                return Ok(page);
            }
            let asked = self.asked_for(query, &rows).await?;
            for (row, asked) in rows.iter().zip(asked) {
                if page.items.len() == query.limit || looked == MAX_SCAN {
                    page.next = at.map(|at| Position(at.into()));
                    return Ok(page);
                }
                looked += 1;
                at = Some(row.position);
                if asked {
                    page.items.extend(recorded(row));
                }
            }
        }
    }

    async fn event(&self, id: &str, source: Option<&str>) -> Result<Vec<Recorded>> {
        self.check_open()?;
        let head = self.log.caught_up().await?;
        let mut found = Vec::new();
        self.scan(0, head, |row| {
            let wanted = row.slot.event().is_some_and(|event| {
                source.is_none_or(|source| **event.source() == *source)
                    && event.id().to_string() == id
            });
            if wanted {
                found.extend(recorded(row));
            }
            true
        })
        .await?;
        Ok(found)
    }

    async fn deliveries(&self, position: Position) -> Result<Vec<DeliveryInfo>> {
        self.check_open()?;
        let at = narrow(position.0);
        let mut found = self.log.find(&[at]).await?;
        let row = found.remove(&at).ok_or_else(|| {
            let message = format!("there is no event at {position}");
            Error::new(ErrorKind::NotFound, message)
        })?;
        let mut all = self.deliveries_of(&[row]).await?;
        Ok(all.remove(&at).unwrap_or_default())
    }

    async fn head(&self) -> Result<Position> {
        self.check_open()?;
        Ok(Position(self.log.caught_up().await?.into()))
    }

    async fn wait_beyond(&self, position: Position, wait: Duration) -> Result<Position> {
        let clock = &self.wire.config.clock;
        let deadline = clock.now() + wait;
        let _follows = self.log.woken(NOBODY);
        let mut appended = self.log.appended();
        let mut closed = self.closed.subscribe();
        loop {
            appended.mark_unchanged();
            let head = self.head().await?;
            if head > position || clock.now() >= deadline {
                return Ok(head);
            }
            tokio::select! {
                _ = appended.changed() => {}
                _ = closed.wait_for(|closed| *closed) => {}
                () = clock.sleep_until(deadline) => {}
            }
        }
    }
}
