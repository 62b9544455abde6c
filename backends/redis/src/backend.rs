//! The backend itself: one stream, its reader, its publisher, and the consumers of this process.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use fanfare_core::admin::Admin;
use fanfare_core::backend::{Backend, Published};
use fanfare_core::capability::{
    Capabilities, Dedup, Fencing, HistoryKind, Known, Limits, Order, SettleFrom, Starts,
};
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::dead_letter::DeadLetters;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::history::History;
use fanfare_core::state::State;
use fanfare_core::subscription::SubscriptionName;
use fanfare_fleet::Letters;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::config::{Groups, RedisConfig};
use crate::connect::{Fsync, Wire};
use crate::consume::{self, RedisConsumer};
use crate::log::Log;
use crate::loss::{self, Losses};
use crate::publish::{Publisher, Stream};
use crate::retention::Retention;
use crate::state::Values;

/// The most events in one publish.
const MAX_BATCH: usize = 10_000;

/// One stream on one server.
#[derive(Debug)]
pub struct RedisBackend {
    pub(crate) wire: Arc<Wire>,
    pub(crate) log: Arc<Log>,
    pub(crate) closed: watch::Sender<bool>,
    letters: Letters<Wire>,
    publisher: Publisher,
    values: Values,
    fsync: Fsync,
    /// As last heard.
    pub(crate) losses: Mutex<Losses>,
    consumers: Mutex<Vec<Weak<RedisConsumer>>>,
}

impl RedisBackend {
    /// Connects; nothing is written until something is published or subscribed.
    pub async fn open(config: RedisConfig) -> Result<Arc<Self>> {
        if config.groups != Groups::None && !config.form.is_foreign() {
            let detail = "consumer groups of redis need an event an entry: name a wire form";
            return Err(Error::invalid("/backend", detail));
        }
        let (wire, fsync) = Wire::open(config).await?;
        let closed = watch::Sender::new(false);
        let log = Log::open(wire.clone(), closed.subscribe()).await?;
        let retention = Retention::start(wire.clone(), log.clone(), closed.subscribe());
        let stream = Stream {
            wire: wire.clone(),
            log: log.clone(),
            retention,
        };
        let publisher = stream.publisher(closed.subscribe());
        let values = Values::new(wire.clone(), closed.subscribe());
        let letters = Letters::of(wire.clone(), closed.subscribe());
        let backend = Arc::new(Self {
            wire,
            log,
            closed,
            letters,
            publisher,
            values,
            fsync,
            losses: Mutex::default(),
            consumers: Mutex::default(),
        });
        loss::start(&backend, backend.closed.subscribe());
        Ok(backend)
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if *self.closed.borrow() {
            return Err(Error::new(ErrorKind::Closed, "the backend is closed"));
        }
        Ok(())
    }

    /// Whether anything was ever removed from the stream.
    pub(crate) async fn trimmed(&self) -> Result<bool> {
        let mut added = redis::cmd("HGET");
        added.arg(self.wire.key("n")).arg("trimmed");
        Ok(self.wire.run::<Option<String>>(&added).await?.is_some())
    }
}

#[async_trait]
impl Backend for RedisBackend {
    fn capabilities(&self) -> Capabilities {
        let config = &self.wire.config;
        Capabilities {
            backend: "redis",
            power_safe: match self.fsync {
                // What a replica lacks is gone when it takes over.
                _ if self.wire.is_replaced_unseen() => Known::No,
                Fsync::Always => Known::Yes,
                Fsync::Later => Known::No,
                Fsync::Unknown => Known::Unknown,
            },
            durable: true,
            at_most_once: false,
            dedup: Dedup::Window,
            fencing: Fencing::Backend,
            start: Starts {
                earliest: true,
                time: true,
                position: true,
            },
            order: Order::Lanes,
            park: true,
            history: HistoryKind::Range,
            delay_precision_millis: 5,
            settle_from: SettleFrom::Any,
            atomic_batch: false,
            pause: true,
            seek: true,
            audit: config.groups != Groups::All,
            foreign_input: config.form.is_foreign(),
            shared: true,
            limits: Limits {
                data_bytes: config.max_data_bytes,
                batch_events: MAX_BATCH,
                delay_millis: 365 * 86_400_000,
            },
        }
    }

    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        self.check_open()?;
        if events.len() > MAX_BATCH {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("at most {MAX_BATCH} events in one publish"),
            ));
        }
        self.publisher.publish(events).await
    }

    async fn consume(
        &self,
        subscription: &SubscriptionName,
        member: Member,
    ) -> Result<Arc<dyn Consumer>> {
        self.check_open()?;
        let (wire, log) = (self.wire.clone(), self.log.clone());
        let closed = self.closed.subscribe();
        let consumer = consume::join(wire, log, subscription, &member, closed).await?;
        let consumer = Arc::new(consumer);
        let mut consumers = self.consumers.lock();
        consumers.retain(|there| there.strong_count() > 0);
        consumers.push(Arc::downgrade(&consumer));
        Ok(consumer)
    }

    fn admin(&self) -> &dyn Admin {
        self
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        &self.letters
    }

    fn history(&self) -> Result<&dyn History> {
        Ok(self)
    }

    fn state(&self) -> &dyn State {
        &self.values
    }

    async fn close(&self) -> Result<()> {
        if self.closed.send_replace(true) {
            return Ok(());
        }
        self.publisher.ended().await;
        let consumers = std::mem::take(&mut *self.consumers.lock());
        let mut released = Ok(());
        for consumer in consumers.iter().filter_map(Weak::upgrade) {
            if consumer.kind() == MemberKind::Embedded {
                released = released.and(consumer.release().await);
            }
        }
        released
    }
}
