//! Publishing: a flush as one frame, or as entries in a form of others. Who shares a flush is decided
//! in the fleet crate.

use std::sync::Arc;

use async_trait::async_trait;
use fanfare_core::backend::Published;
use fanfare_core::clock::Clock;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::position::Position;
use fanfare_fleet::{Flushing, Sink};
use redis::Cmd;
use tokio::sync::watch;

use crate::connect::{Answer, Wire};
use crate::error::{map_write, unexpected};
use crate::frame::{self, Slot};
use crate::log::Log;
use crate::place::of_entry;
use crate::retention::Retention;
use crate::scripts;

/// The most frames on their way at once, so that the server works while the next ones are made. They
/// share a connection and arrive in order.
const IN_FLIGHT: usize = 3;

/// The way into the stream.
pub(crate) type Publisher = fanfare_fleet::Publisher<Stream>;

/// Where frames go.
pub(crate) struct Stream {
    pub(crate) wire: Arc<Wire>,
    pub(crate) log: Arc<Log>,
    pub(crate) retention: Arc<Retention>,
}

/// One event on its way into a frame.
pub(crate) struct Item {
    event: Event,
    identity: Vec<u8>,
    /// Where each event has an entry of its own.
    entry: Option<Vec<Vec<u8>>>,
}

enum Appended {
    /// At these positions, one each.
    At(Vec<u128>),
    /// Not: these were there before, by their ascending place in the frame.
    Duplicates(Vec<usize>),
    Full,
}

impl Stream {
    pub(crate) fn publisher(self, closed: watch::Receiver<bool>) -> Publisher {
        let config = &self.wire.config;
        let limits = Flushing {
            queue: config.queue,
            events: config.frame_events,
            bytes: config.frame_bytes,
            in_flight: IN_FLIGHT,
            timeout: config.publish_timeout,
        };
        Publisher::start(self, limits, closed)
    }

    async fn append_once(&self, items: &[&Item]) -> Result<Appended> {
        let own_entries = items.iter().all(|item| item.entry.is_some());
        let (script, command) = if own_entries {
            (&scripts::ENTRIES, self.entries(items))
        } else {
            (&scripts::PUBLISH, self.frame(items))
        };
        let answer = self.wire.try_append(script, &command).await;
        let mut answer = Answer::new(answer.map_err(map_write)?, "publish")?;
        match answer.next::<String>()?.as_str() {
            "appended" => {
                let mut positions = Vec::with_capacity(items.len());
                while let Some(id) = answer.next_if_any::<String>()? {
                    positions.push(of_entry(&id).ok_or_else(|| unexpected("publish"))?);
                }
                if let [head] = positions[..] {
                    positions.extend((1..items.len()).map(|index| head | index as u128));
                }
                Ok(Appended::At(positions))
            }
            "duplicate" => {
                let mut places = Vec::new();
                while let Some(place) = answer.next_if_any::<usize>()? {
                    places.push(place);
                }
                places.sort_unstable();
                Ok(Appended::Duplicates(places))
            }
            "full" => Ok(Appended::Full),
            _ => Err(unexpected("publish")),
        }
    }

    fn frame(&self, items: &[&Item]) -> Cmd {
        let config = &self.wire.config;
        let frame = frame::encode_all(items.iter().map(|item| &item.event));
        let mut command = self.wire.call(&scripts::PUBLISH);
        command
            .arg(config.dedup_window.as_micros().to_string())
            .arg(config.dedup_ids)
            .arg(config.max_bytes)
            .arg(frame.len())
            .arg(frame);
        for item in items {
            command.arg(&item.identity);
        }
        command
    }

    fn entries(&self, items: &[&Item]) -> Cmd {
        let config = &self.wire.config;
        let mut command = self.wire.call(&scripts::ENTRIES);
        command
            .arg(config.dedup_window.as_micros().to_string())
            .arg(config.dedup_ids)
            .arg(items.len());
        for item in items {
            let entry = item.entry.as_deref().unwrap_or_default();
            command.arg(&item.identity).arg(entry.len()).arg(entry);
        }
        command
    }

    /// Where the first ones of duplicates stand; nothing for the others, which were not stored.
    async fn duplicates(&self, items: &[&Item], places: &[usize]) -> Vec<Option<Published>> {
        let known = places.iter().filter_map(|place| items.get(*place));
        let identities = known.map(|item| &item.identity[..]).collect();
        let firsts = self.log.firsts(identities).await;
        let all = items.iter().enumerate().map(|(at, item)| {
            let known = places.binary_search(&at).is_ok();
            known.then(|| Published {
                position: firsts.get(&item.identity).copied().map(Position),
                duplicate: true,
            })
        });
        all.collect()
    }
}

#[async_trait]
impl Sink for Stream {
    type Item = Item;
    type Identity<'a> = &'a [u8];

    fn clock(&self) -> &Clock {
        &self.wire.config.clock
    }

    fn prepare(&self, event: &Event) -> Result<Item> {
        let config = &self.wire.config;
        let most = config.max_data_bytes;
        if event.bytes().len() > most {
            let text = format!("data above {most} bytes");
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        let entry = config.form.entry(event)?;
        // As it will be read: a form may have no place for the source.
        let read = entry.as_deref().map(|entry| config.form.read(entry).0);
        let kept = read.as_deref().and_then(<[Slot]>::first);
        Ok(Item {
            identity: frame::identity(kept.and_then(Slot::event).unwrap_or(event)),
            entry,
            event: event.clone(),
        })
    }

    fn identity<'a>(&self, item: &'a Item) -> &'a [u8] {
        &item.identity
    }

    fn size(&self, item: &Item) -> usize {
        item.event.size()
    }

    /// One frame; makes room once when the stream is full.
    async fn append(&self, items: &[&Item]) -> Result<Vec<Option<Published>>> {
        let mut appended = self.append_once(items).await?;
        if matches!(appended, Appended::Full) {
            self.retention.make_room().await?;
            appended = self.append_once(items).await?;
        }
        match appended {
            Appended::At(positions) => {
                let stored = positions.into_iter().map(|position| Published {
                    position: Some(Position(position)),
                    duplicate: false,
                });
                Ok(stored.map(Some).collect())
            }
            Appended::Duplicates(places) => Ok(self.duplicates(items, &places).await),
            Appended::Full => Err(Error::new(
                ErrorKind::Full,
                "the stream is full of unsettled events",
            )),
        }
    }
}
