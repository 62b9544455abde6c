//! The backend itself: one stream, its log, its publisher, and the consumers of this process.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use fanfare_core::admin::Admin;
use fanfare_core::advice::Advice;
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

use crate::config::PostgresConfig;
use crate::connect::Database;
use crate::consume::{Desk, PostgresConsumer};
use crate::follow::Following;
use crate::log::Log;
use crate::publish::{Publisher, Table};
use crate::retention::Retention;
use crate::state::Values;
use crate::{advice, loss, migrate};

/// The most events in one publish.
const MAX_BATCH: usize = 10_000;

/// One stream on one server.
#[derive(Debug)]
pub struct PostgresBackend {
    pub(crate) database: Arc<Database>,
    pub(crate) log: Arc<Log>,
    pub(crate) closed: watch::Sender<bool>,
    pub(crate) retention: Arc<Retention>,
    letters: Letters<Database>,
    publisher: Publisher,
    following: Following,
    pub(crate) values: Values,
    desk: Arc<Desk>,
    consumers: Mutex<Vec<Weak<PostgresConsumer>>>,
}

impl PostgresBackend {
    /// Connects, and brings the schema of the stream up to date.
    pub async fn open(config: PostgresConfig) -> Result<Arc<Self>> {
        let database = Database::open(config).await?;
        let closed = watch::Sender::new(false);
        let (log, following) = Log::open(database.clone(), closed.subscribe()).await?;
        let retention = Retention::start(database.clone(), closed.subscribe());
        let table = Table {
            log: log.clone(),
            retention: retention.clone(),
        };
        let publisher = table.publisher(closed.subscribe());
        let desk = Arc::new(Desk {
            database: database.clone(),
            log: log.clone(),
            settled: Mutex::default(),
        });
        loss::start(&desk, closed.subscribe());
        let values = Values::new(database.clone());
        let letters = Letters::of(database.clone(), closed.subscribe());
        Ok(Arc::new(Self {
            database,
            letters,
            log,
            closed,
            retention,
            publisher,
            following,
            values,
            desk,
            consumers: Mutex::default(),
        }))
    }

    /// What opening would make or change in the database before anything else, in words; nothing where
    /// the stream is there as this build has it. Changes nothing.
    pub async fn missing(config: PostgresConfig) -> Result<Option<&'static str>> {
        let database = Database::connect(config)?;
        database.check().await?;
        migrate::missing(&database).await
    }

    /// What [`Admin::advice`] says, where the stream need not be there. Changes nothing.
    pub async fn advice(config: PostgresConfig) -> Result<Vec<Advice>> {
        let database = Database::connect(config)?;
        database.check().await?;
        advice::of(&database).await
    }

    /// Takes the steps of the schema back until `target` are left, with everything they hold; 0
    /// removes the stream. Nobody may have it open.
    pub async fn migrate_down(config: PostgresConfig, target: i32) -> Result<()> {
        migrate::down(&Database::connect(config)?, target).await
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if *self.closed.borrow() {
            return Err(Error::new(ErrorKind::Closed, "the backend is closed"));
        }
        Ok(())
    }
}

#[async_trait]
impl Backend for PostgresBackend {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: "postgres",
            power_safe: if self.database.power_safe() {
                Known::Yes
            } else {
                Known::No
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
            history: HistoryKind::Full,
            delay_precision_millis: 10,
            settle_from: SettleFrom::Any,
            atomic_batch: false,
            pause: true,
            seek: true,
            audit: true,
            foreign_input: false,
            shared: true,
            limits: Limits {
                data_bytes: self.database.config.max_data_bytes,
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
        let closed = self.closed.subscribe();
        let consumer = PostgresConsumer::join(self.desk.clone(), subscription, &member, closed);
        let consumer = Arc::new(consumer.await?);
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
        self
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
        self.following.ended().await;
        self.database.close();
        released
    }
}
