//! Past events by position and time, as far as they are kept. Other filters are applied to what is
//! read, a bounded number of frames for one page; finding an event by its id reads everything, so
//! that is refused.

use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::history::{DeliveryInfo, EventPage, EventQuery, History, Recorded};
use fanfare_core::position::Position;
use fanfare_fleet::Page;

use crate::backend::RedisBackend;
use crate::frame::Slot;
use crate::place::{before, end_of, recorded};

/// The most events looked at for one page.
const MAX_SCAN: usize = 20_000;
/// No subscription has this name: it stands for whoever only waits for more events.
const NOBODY: &str = "";

fn unsupported(what: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!("redis keeps no index to find events by {what}"),
    )
}

fn wanted(query: &EventQuery, position: u128, slot: &Slot) -> Option<Recorded> {
    let event = slot.event()?;
    let at = recorded(position);
    let kept = query
        .patterns
        .as_ref()
        .is_none_or(|p| p.matches(event.event_type()))
        && query.since.is_none_or(|since| at >= since)
        && query.until.is_none_or(|until| at < until)
        && query
            .key
            .as_deref()
            .is_none_or(|key| event.key() == Some(key))
        && query
            .source
            .as_deref()
            .is_none_or(|source| **event.source() == *source);
    kept.then(|| Recorded {
        position: Position(position),
        recorded: at,
        event: event.clone(),
    })
}

/// Collects a page until it is full, or enough was looked at.
struct Collecting<'a> {
    query: &'a EventQuery,
    page: EventPage,
    looked: usize,
    at: u128,
}

impl Collecting<'_> {
    /// Whether the next event may still be looked at; else where to go on is noted.
    fn goes_on(&mut self) -> bool {
        let goes_on = self.page.items.len() < self.query.limit && self.looked < MAX_SCAN;
        if !goes_on {
            self.page.next = Some(Position(self.at));
        }
        goes_on
    }

    fn look(&mut self, position: u128, slot: &Slot) {
        self.looked += 1;
        self.at = position;
        self.page.items.extend(wanted(self.query, position, slot));
    }
}

impl RedisBackend {
    async fn forward(&self, query: &EventQuery) -> Result<EventPage> {
        let since = query.since.map_or(0, before);
        let mut collecting = Collecting {
            query,
            page: EventPage::default(),
            looked: 0,
            at: query.after.map_or(0, |after| after.0).max(since),
        };
        loop {
            let from = collecting.at;
            let frames = self.log.page(from).await?;
            let Some(last) = frames.last() else {
                return Ok(collecting.page);
            };
            for (position, slot) in frames.iter().flat_map(|frame| frame.after(from)) {
                let over = query.until.is_some_and(|until| recorded(position) >= until);
                if over || !collecting.goes_on() {
                    return Ok(collecting.page);
                }
                collecting.look(position, slot);
            }
            collecting.at = end_of(last.head);
        }
    }

    async fn backward(&self, query: &EventQuery) -> Result<EventPage> {
        let until = query.until.map(|until| before(until).saturating_add(1));
        let after = query.after.map(|after| after.0);
        let mut collecting = Collecting {
            query,
            page: EventPage::default(),
            looked: 0,
            at: [until, after]
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(u128::MAX),
        };
        loop {
            let from = collecting.at;
            let frames = self
                .log
                .page_before(Some(from).filter(|from| *from != u128::MAX))
                .await?;
            let newest_first = frames.iter().flat_map(|frame| {
                let mut slots: Vec<_> = frame.after(0).filter(|(p, _)| *p < from).collect();
                slots.reverse();
                slots
            });
            for (position, slot) in newest_first {
                let over = query.since.is_some_and(|since| recorded(position) < since);
                if over || !collecting.goes_on() {
                    return Ok(collecting.page);
                }
                collecting.look(position, slot);
            }
            let oldest = frames.last().map(|frame| frame.head);
            match oldest.filter(|head| *head < from) {
                Some(head) => collecting.at = head,
                None => return Ok(collecting.page),
            }
        }
    }
}

#[async_trait]
impl History for RedisBackend {
    async fn events(&self, query: &EventQuery) -> Result<EventPage> {
        self.check_open()?;
        if query.status.is_some() {
            return Err(unsupported("status"));
        }
        if query.descending {
            return self.backward(query).await;
        }
        if let Some(after) = query.after.filter(|after| *after != Position::START) {
            let first = self.log.page(0).await?;
            let trimmed = self.trimmed().await?;
            if trimmed
                && first
                    .first()
                    .is_some_and(|frame| after.0 < frame.head.saturating_sub(1))
            {
                return Err(Error::new(
                    ErrorKind::Gone,
                    "retention has passed this cursor",
                ));
            }
        }
        self.forward(query).await
    }

    async fn event(&self, _id: &str, _source: Option<&str>) -> Result<Vec<Recorded>> {
        self.check_open()?;
        Err(unsupported("id"))
    }

    async fn deliveries(&self, _position: Position) -> Result<Vec<DeliveryInfo>> {
        self.check_open()?;
        Err(Error::new(
            ErrorKind::Unsupported,
            "redis does not list the deliveries of an event",
        ))
    }

    async fn head(&self) -> Result<Position> {
        self.check_open()?;
        let newest = self.log.page_before(None).await?;
        Ok(newest
            .first()
            .map_or(Position::START, |frame| Position(frame.last())))
    }

    async fn wait_beyond(&self, position: Position, wait: Duration) -> Result<Position> {
        let clock = &self.wire.config.clock;
        let deadline = clock.now() + wait;
        let _follows = self.log.woken(NOBODY);
        let mut appended = self.log.appended();
        loop {
            appended.mark_unchanged();
            let head = self.head().await?;
            if head > position || clock.now() >= deadline {
                return Ok(head);
            }
            let mut closed = self.closed.subscribe();
            tokio::select! {
                _ = appended.changed() => {}
                _ = closed.wait_for(|closed| *closed) => {}
                () = clock.sleep_until(deadline) => {}
            }
        }
    }
}
