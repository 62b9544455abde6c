//! The backend itself: one stream, its log, its publisher, and the consumers of this process.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use fanfare_core::admin::Admin;
use fanfare_core::backend::{Backend, Published};
use fanfare_core::capability::{
    Capabilities, Dedup, Fencing, HistoryKind, Limits, Order, SettleFrom, Starts,
};
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::dead_letter::DeadLetters;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::history::History;
use fanfare_core::state::State;
use fanfare_core::subscription::SubscriptionName;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::NatsConfig;
use crate::connect::Wire;
use crate::consume::NatsConsumer;
use crate::desk::Desk;
use crate::follow;
use crate::log::Log;
use crate::loss::{self, Watch};
use crate::publish::Publisher;
use crate::retention::Retention;
use crate::state::Values;

/// The most events in one publish.
const MAX_BATCH: usize = 10_000;

/// One stream on one server or cluster.
#[derive(Debug)]
pub struct NatsBackend {
    pub(crate) wire: Arc<Wire>,
    pub(crate) log: Arc<Log>,
    pub(crate) desk: Arc<Desk>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) closed: watch::Sender<bool>,
    values: Values,
    publisher: Publisher,
    following: Mutex<Option<JoinHandle<()>>>,
    consumers: Mutex<Vec<Weak<NatsConsumer>>>,
}

impl NatsBackend {
    /// Connects, and makes the streams where they are missing.
    pub async fn open(config: NatsConfig) -> Result<Arc<Self>> {
        let wire = Wire::open(config).await?;
        wire.check_jetstream().await?;
        let (note, holds) = loss::note(&wire, None).await?;
        wire.set_generation(note.generation);
        wire.learn_time().await?;
        let closed = watch::Sender::new(false);
        let log = Log::new(wire.clone(), wire.base() + holds.state.last_seq);
        let desk = Desk::new(wire.clone(), log.clone());
        let retention = Retention::start(&desk, closed.subscribe());
        let watch = Watch::start(&desk, note, closed.subscribe());
        if wire.config.form.is_foreign() {
            // Who reads on first would not know any more what it missed.
            watch.look().await?;
        }
        let following = follow::start(log.clone(), closed.subscribe());
        Ok(Arc::new(Self {
            publisher: Publisher::new(log.clone(), retention),
            values: Values::new(wire.clone(), closed.subscribe()),
            wire,
            log,
            desk,
            watch,
            closed,
            following: Mutex::new(Some(following)),
            consumers: Mutex::default(),
        }))
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if *self.closed.borrow() {
            return Err(Error::new(ErrorKind::Closed, "the backend is closed"));
        }
        Ok(())
    }
}

#[async_trait]
impl Backend for NatsBackend {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: "nats",
            power_safe: self.wire.power_safe(),
            durable: !self.wire.keeping().in_memory,
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
            foreign_input: true,
            shared: true,
            limits: Limits {
                data_bytes: self.wire.most_data(),
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
        Ok(self.publisher.publish(events).await)
    }

    async fn consume(
        &self,
        subscription: &SubscriptionName,
        member: Member,
    ) -> Result<Arc<dyn Consumer>> {
        self.check_open()?;
        let closed = self.closed.subscribe();
        let consumer = NatsConsumer::join(self.desk.clone(), subscription, &member, closed);
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
        self
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
        let consumers = std::mem::take(&mut *self.consumers.lock());
        let mut released = Ok(());
        for consumer in consumers.iter().filter_map(Weak::upgrade) {
            if consumer.kind() == MemberKind::Embedded {
                released = released.and(consumer.release().await);
            }
        }
        let following = self.following.lock().take();
        if let Some(following) = following {
            // It ends by itself; that it panicked is nobody's business now.
            let _ = following.await;
        }
        released
    }
}
