//! Pub/Sub: at most once, for whoever asks for it. Redis hands an event to who listens at that moment
//! and keeps nothing: each process has each event of its subscriptions, or never will.
//!
//! ```text
//!  PUBLISH ---> redis ---> line of subscription `a` ---> queue ---> members of `a` here
//!                  \                                        `-----> list of dead letters, in redis
//!                   `----> line of `a` in another process ---> ..
//! ```
//!
//! Each subscription has a connection of its own, so that a slow one is cut off alone. Its queue, its
//! leases and its retries are this process's and die with it; dead letters and shared values are
//! Redis's.

mod admin;
mod channel;
mod config;
mod consume;
mod dead_letters;
mod dial;
mod letter;
mod line;
mod message;
mod publish;
mod stream;
mod subscription;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use fanfare_core::admin::Admin;
use fanfare_core::backend::{Backend, Published};
use fanfare_core::capability::{
    Capabilities, Dedup, Fencing, HistoryKind, Known, Limits, Order, SettleFrom, Starts,
};
use fanfare_core::consumer::{Consumer, Member};
use fanfare_core::dead_letter::DeadLetters;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::history::History;
use fanfare_core::state::State;
use fanfare_core::subscription::SubscriptionName;
use parking_lot::Mutex;

pub use self::config::PubSubConfig;
use self::consume::PubSubConsumer;
use self::stream::Stream;
use self::subscription::Subscription;
use crate::connect::Wire;
use crate::state::Values;

/// The most events in one publish.
const MAX_BATCH: usize = 10_000;

type Subscriptions = Mutex<BTreeMap<SubscriptionName, Arc<Subscription>>>;

/// One stream's channels on one server.
#[derive(Debug)]
pub struct RedisPubSub {
    stream: Arc<Stream>,
    subscriptions: Arc<Subscriptions>,
    /// Whoever makes a subscription holds it, so that none is made twice.
    creating: tokio::sync::Mutex<()>,
    values: Values,
    unheard: AtomicU64,
    /// How often the line of a subscription broke.
    gaps: Arc<AtomicU64>,
}

impl RedisPubSub {
    /// Connects; nothing is written, and nothing heard, until somebody publishes or subscribes.
    pub async fn open(config: PubSubConfig) -> Result<Arc<Self>> {
        let (wire, _) = Wire::open(config.server.clone()).await?;
        let stream = Stream::new(&config, wire.clone());
        let values = Values::new(wire, stream.closed.subscribe());
        Ok(Arc::new(Self {
            stream: Arc::new(stream),
            subscriptions: Arc::default(),
            creating: tokio::sync::Mutex::default(),
            values,
            unheard: AtomicU64::new(0),
            gaps: Arc::default(),
        }))
    }

    /// How many events that were published here had no receiver anywhere, by Redis's own count.
    pub fn unheard(&self) -> u64 {
        self.unheard.load(Ordering::Relaxed)
    }

    fn check_open(&self) -> Result<()> {
        if *self.stream.closed.borrow() {
            return Err(Error::new(ErrorKind::Closed, "the backend is closed"));
        }
        Ok(())
    }

    fn subscription(&self, name: &SubscriptionName) -> Result<Arc<Subscription>> {
        let there = self.subscriptions.lock().get(name).cloned();
        there.ok_or_else(|| unknown(name))
    }
}

fn unknown(name: &SubscriptionName) -> Error {
    let text = format!("this process has no subscription `{name}`");
    Error::new(ErrorKind::NotFound, text)
}

#[async_trait]
impl Backend for RedisPubSub {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: "redis",
            power_safe: Known::No,
            durable: false,
            at_most_once: true,
            dedup: Dedup::None,
            fencing: Fencing::Backend,
            start: Starts {
                earliest: false,
                time: false,
                position: false,
            },
            order: Order::Lanes,
            park: false,
            history: HistoryKind::None,
            delay_precision_millis: 2,
            settle_from: SettleFrom::Node,
            atomic_batch: false,
            pause: true,
            seek: false,
            audit: false,
            foreign_input: self.stream.form().is_foreign(),
            shared: true,
            limits: Limits {
                data_bytes: self.stream.wire.config.max_data_bytes,
                batch_events: MAX_BATCH,
                delay_millis: 365 * 86_400_000,
            },
        }
    }

    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        self.check_open()?;
        if events.len() > MAX_BATCH {
            let text = format!("at most {MAX_BATCH} events in one publish");
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        let (answers, unheard) = publish::publish(&self.stream, events).await?;
        self.unheard.fetch_add(unheard, Ordering::Relaxed);
        Ok(answers)
    }

    async fn consume(
        &self,
        subscription: &SubscriptionName,
        member: Member,
    ) -> Result<Arc<dyn Consumer>> {
        self.check_open()?;
        let subscription = self.subscription(subscription)?;
        let stream = self.stream.clone();
        let consumer = PubSubConsumer::join(stream, subscription, &self.subscriptions, &member);
        Ok(Arc::new(consumer))
    }

    fn admin(&self) -> &dyn Admin {
        self
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        self
    }

    fn history(&self) -> Result<&dyn History> {
        let text = "redis keeps no events in the mode pubsub";
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    fn state(&self) -> &dyn State {
        &self.values
    }

    async fn close(&self) -> Result<()> {
        if self.stream.closed.send_replace(true) {
            return Ok(());
        }
        let subscriptions = std::mem::take(&mut *self.subscriptions.lock());
        for subscription in subscriptions.into_values() {
            subscription.end();
            dead_letters::write(&self.stream, &subscription).await;
        }
        Ok(())
    }
}

impl Drop for RedisPubSub {
    fn drop(&mut self) {
        for subscription in self.subscriptions.lock().values() {
            subscription.end();
        }
    }
}
