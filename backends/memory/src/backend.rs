//! The backend itself: one lock over the log, the subscriptions and the dead letters.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use fanfare_core::admin::Admin;
use fanfare_core::backend::{Backend, Published};
use fanfare_core::capability::{
    Capabilities, Dedup, Fencing, HistoryKind, Known, Limits, Order, SettleFrom, Starts,
};
use fanfare_core::consumer::{Consumer, Member};
use fanfare_core::dead_letter::{DeadLetter, DeadLetters};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::history::History;
use fanfare_core::state::{State, Versioned};
use fanfare_core::subscription::SubscriptionName;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use crate::config::MemoryConfig;
use crate::consume::MemoryConsumer;
use crate::log::Log;
use crate::subscription::Subscription;

/// The most events in one publish.
const MAX_BATCH: usize = 100_000;

/// Events in memory, gone with the process.
pub struct MemoryBackend {
    pub(crate) config: MemoryConfig,
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    inner: Mutex<Inner>,
    /// An event was appended.
    pub(crate) appended: Notify,
}

#[derive(Default)]
pub(crate) struct Inner {
    pub(crate) log: Log,
    pub(crate) subscriptions: BTreeMap<SubscriptionName, Subscription>,
    pub(crate) dead: BTreeMap<u64, Letter>,
    pub(crate) last_letter: u64,
    pub(crate) state: hashbrown::HashMap<String, Versioned>,
    pub(crate) last_version: u64,
    pub(crate) last_member: u64,
    pub(crate) room: Room,
    closed: bool,
}

/// What is known about where there is something to evict, so that a full stream does not search
/// for it at every publish.
#[derive(Default)]
pub(crate) struct Room {
    /// Every position below is settled by all subscriptions.
    pub(crate) unsettled_from: u64,
    /// How many positions were settled or passed over so far.
    pub(crate) passed: u64,
    /// `passed` when `unsettled_from` was found.
    pub(crate) looked: Option<u64>,
    /// `passed` at the last sweep.
    pub(crate) swept: Option<u64>,
}

impl Room {
    /// A subscription came, went, or went back: nothing is known any more.
    pub(crate) fn forget(&mut self) {
        *self = Self {
            passed: self.passed,
            ..Self::default()
        };
    }
}

/// A dead letter and the generation of the cursor that it died in.
pub(crate) struct Letter {
    pub(crate) letter: DeadLetter,
    pub(crate) generation: u64,
}

impl MemoryBackend {
    /// An empty stream.
    pub fn open(config: MemoryConfig) -> Arc<Self> {
        let shared = Shared {
            inner: Mutex::default(),
            appended: Notify::new(),
        };
        Arc::new(Self {
            config,
            shared: Arc::new(shared),
        })
    }

    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, Inner>> {
        self.shared.lock()
    }
}

impl Shared {
    /// The inside, unless closed.
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, Inner>> {
        let inner = self.inner.lock();
        if inner.closed {
            Err(Error::new(ErrorKind::Closed, "the backend is closed"))
        } else {
            Ok(inner)
        }
    }
}

impl Inner {
    pub(crate) fn subscription(&self, name: &SubscriptionName) -> Result<&Subscription> {
        self.subscriptions.get(name).ok_or_else(|| unknown(name))
    }

    pub(crate) fn subscription_mut(
        &mut self,
        name: &SubscriptionName,
    ) -> Result<&mut Subscription> {
        self.subscriptions
            .get_mut(name)
            .ok_or_else(|| unknown(name))
    }
}

pub(crate) fn unknown(name: &SubscriptionName) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("there is no subscription `{name}`"),
    )
}

#[async_trait]
impl Backend for MemoryBackend {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: "memory",
            power_safe: Known::No,
            durable: false,
            at_most_once: false,
            dedup: Dedup::Retention,
            fencing: Fencing::Backend,
            start: Starts {
                earliest: true,
                time: true,
                position: true,
            },
            order: Order::Lanes,
            park: true,
            history: HistoryKind::Full,
            delay_precision_millis: 2,
            settle_from: SettleFrom::Node,
            atomic_batch: false,
            pause: true,
            seek: true,
            audit: true,
            foreign_input: false,
            shared: false,
            limits: Limits {
                data_bytes: self.config.max_data_bytes,
                batch_events: MAX_BATCH,
                delay_millis: 365 * 86_400_000,
            },
        }
    }

    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        if events.len() > MAX_BATCH {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("at most {MAX_BATCH} events in one publish"),
            ));
        }
        self.append(events)
    }

    async fn consume(
        &self,
        subscription: &SubscriptionName,
        member: Member,
    ) -> Result<Arc<dyn Consumer>> {
        Ok(Arc::new(MemoryConsumer::join(self, subscription, &member)?))
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
        self
    }

    async fn close(&self) -> Result<()> {
        let mut inner = self.shared.inner.lock();
        inner.closed = true;
        for subscription in inner.subscriptions.values() {
            subscription.wake.notify_waiters();
        }
        self.shared.appended.notify_waiters();
        Ok(())
    }
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBackend")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
