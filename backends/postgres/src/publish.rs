//! Publishing: a flush as one statement. Who shares a flush is decided in the fleet crate.

use std::sync::Arc;

use async_trait::async_trait;
use fanfare_core::backend::Published;
use fanfare_core::clock::Clock;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::id::EventId;
use fanfare_core::position::Position;
use fanfare_fleet::{Flushing, Sink};
use tokio::sync::watch;

use crate::error::unexpected;
use crate::log::Log;
use crate::retention::Retention;
use crate::row::get;
use crate::rows::{APPEND, Rows};

/// The way into the log.
pub(crate) type Publisher = fanfare_fleet::Publisher<Table>;

/// Where statements go.
pub(crate) struct Table {
    pub(crate) log: Arc<Log>,
    pub(crate) retention: Arc<Retention>,
}

impl Table {
    pub(crate) fn publisher(self, closed: watch::Receiver<bool>) -> Publisher {
        let config = &self.log.database.config;
        let limits = Flushing {
            queue: config.queue,
            events: config.flush_events,
            bytes: config.flush_bytes,
            in_flight: 1,
            timeout: config.publish_timeout,
        };
        Publisher::start(self, limits, closed)
    }
}

#[async_trait]
impl Sink for Table {
    type Item = Event;
    type Identity<'a> = (&'a str, &'a EventId);

    fn clock(&self) -> &Clock {
        &self.log.database.config.clock
    }

    fn prepare(&self, event: &Event) -> Result<Event> {
        let most = self.log.database.config.max_data_bytes;
        if event.bytes().len() > most {
            let text = format!("data above {most} bytes");
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        Ok(event.clone())
    }

    fn identity<'a>(&self, event: &'a Event) -> (&'a str, &'a EventId) {
        (event.source(), event.id())
    }

    fn size(&self, event: &Event) -> usize {
        event.size()
    }

    async fn append(&self, events: &[&Event]) -> Result<Vec<Option<Published>>> {
        let rows = Rows::of(events);
        let bytes = events.iter().map(|event| event.size() as u64).sum();
        self.retention.take(bytes).await?;
        let answer = self.log.database.publish(APPEND, &rows.params()).await?;
        let row = answer.first().ok_or_else(|| unexpected("publish"))?;
        let published = published(get(row, 0)?, get(row, 1)?)?;
        self.log.published.notify_one();
        Ok(published.into_iter().map(Some).collect())
    }
}

/// What `ff.append` answered.
pub(crate) fn published(
    positions: Vec<Option<i64>>,
    duplicates: Option<Vec<bool>>,
) -> Result<Vec<Published>> {
    let duplicates = duplicates.unwrap_or_else(|| vec![false; positions.len()]);
    let both = positions.into_iter().zip(duplicates);
    let published = both.map(|(position, duplicate)| {
        // The first of a duplicate may have been rolled back to a savepoint meanwhile.
        let position = position.map(u128::try_from).transpose();
        let position = position.map_err(|_| unexpected("publish"))?;
        Ok(Published {
            position: position.map(Position),
            duplicate,
        })
    });
    published.collect()
}
