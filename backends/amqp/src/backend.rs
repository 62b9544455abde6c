//! The backend itself, and the stream that its parts share: names, places, and queues.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
use fanfare_core::position::Position;
use fanfare_core::state::State;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use parking_lot::Mutex;

use crate::config::AmqpConfig;
use crate::connect::Line;
use crate::consume::AmqpConsumer;
use crate::desk::Desk;
use crate::hub::Hub;
use crate::publish::MAX_BATCH;
use crate::register::Lock;
use crate::state::Values;
use crate::{error, subscription};

/// The longest retry delay.
const MAX_DELAY: Duration = Duration::from_hours(24 * 30);

/// A stream on a RabbitMQ server.
pub struct AmqpBackend {
    pub(crate) stream: Arc<Stream>,
    pub(crate) values: Values,
}

/// What every part of the backend works with.
pub(crate) struct Stream {
    pub(crate) line: Arc<Line>,
    /// For publishing alone: the broker may block who publishes, and then hears nothing else either.
    pub(crate) out: Line,
    pub(crate) name: String,
    pub(crate) lock: Lock,
    pub(crate) hubs: Mutex<HashMap<SubscriptionName, Arc<Hub>>>,
    /// What the book calls this process.
    pub(crate) process: String,
    /// Tells this process's places from those of others.
    origin: u32,
    placed: Mutex<(i64, u32)>,
    pub(crate) making: tokio::sync::Mutex<()>,
    /// Held while the first member of a subscription comes, or the last goes.
    joining: tokio::sync::Mutex<()>,
    /// Queues of delays that are known to be there.
    pub(crate) delays: Mutex<HashSet<String>>,
    members: AtomicU64,
}

impl AmqpBackend {
    /// Connects, and makes exchange and queues where they are not there.
    pub async fn open(config: AmqpConfig) -> Result<Arc<Self>> {
        let stream = Stream::new(config);
        let opening = async {
            stream.line.check_age().await?;
            stream.declare().await
        };
        opening.await.map_err(|e| e.during("open"))?;
        Ok(Arc::new(Self {
            stream: Arc::new(stream),
            values: Values::default(),
        }))
    }
}

/// Does something under the lock, and lets the next one in.
macro_rules! locked {
    ($backend:expr, |$held:ident| $work:expr) => {{
        let stream = &$backend.stream;
        stream.line.check_open()?;
        let $held = stream.lock.take(&stream.line).await?;
        let done = $work.await;
        $held.release().await;
        done
    }};
}
pub(crate) use locked;

impl Stream {
    /// Nothing of it needs to be there yet.
    pub(crate) fn new(config: AmqpConfig) -> Self {
        let name = config.stream.clone();
        let random = uuid::Uuid::now_v7().as_u64_pair().1;
        Self {
            lock: Lock::new(&name),
            out: Line::new(config.clone()),
            line: Arc::new(Line::new(config)),
            name,
            process: uuid::Uuid::now_v7().simple().to_string(),
            hubs: Mutex::default(),
            origin: u32::try_from(random >> 32).unwrap_or(0),
            placed: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            joining: tokio::sync::Mutex::default(),
            delays: Mutex::default(),
            members: AtomicU64::new(0),
        }
    }

    /// A new place. RabbitMQ has none of its own: it is when and by whom an event was published, and
    /// only grows within one process.
    pub(crate) fn place(&self) -> Position {
        let mut placed = self.placed.lock();
        let now = self.line.config.clock.now().as_millis().max(placed.0);
        *placed = (now, placed.1.wrapping_add(1).max(u32::from(now > placed.0)));
        let within = u128::from(placed.1) << 32 | u128::from(self.origin);
        Position(place_at(Timestamp::from_millis(now)).0 | within)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.line.config.clock.now()
    }

    /// A hub that has ended by itself.
    pub(crate) fn forget(&self, ended: &Hub) {
        let mut hubs = self.hubs.lock();
        let same = |hub: &Arc<Hub>| std::ptr::eq(Arc::as_ptr(hub), ended);
        if hubs.get(&ended.name).is_some_and(same) {
            hubs.remove(&ended.name);
        }
    }

    pub(crate) fn hub(&self, name: &SubscriptionName) -> Option<Arc<Hub>> {
        self.hubs.lock().get(name).cloned()
    }
}

/// Before every place of that time.
pub(crate) fn place_at(time: Timestamp) -> Position {
    Position(u128::try_from(time.as_millis()).unwrap_or(0) << 64)
}

#[async_trait]
impl Backend for AmqpBackend {
    fn capabilities(&self) -> Capabilities {
        let config = &self.stream.line.config;
        Capabilities {
            backend: "amqp",
            power_safe: Known::Unknown,
            durable: true,
            at_most_once: false,
            dedup: Dedup::None,
            fencing: Fencing::Backend,
            start: Starts {
                earliest: false,
                time: false,
                position: false,
            },
            order: Order::OneProcess,
            park: false,
            history: HistoryKind::None,
            delay_precision_millis: 1_000,
            settle_from: SettleFrom::Node,
            atomic_batch: false,
            pause: true,
            seek: false,
            audit: false,
            foreign_input: config.form.is_some()
                || config.exchange.is_some()
                || config.queue.is_some(),
            shared: true,
            limits: Limits {
                data_bytes: config.max_data_bytes,
                batch_events: MAX_BATCH,
                delay_millis: u64::try_from(MAX_DELAY.as_millis()).unwrap_or(u64::MAX),
            },
        }
    }

    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        self.stream.publish(events).await
    }

    async fn consume(&self, name: &SubscriptionName, member: Member) -> Result<Arc<dyn Consumer>> {
        let config = &self.stream.line.config;
        let hub = tokio::select! {
            hub = self.stream.join(name) => hub?,
            // Those before it may each have waited for an answer.
            () = config.clock.sleep(config.connect_timeout + config.response_timeout) => {
                return Err(error::silent());
            }
        };
        let id = self.stream.members.fetch_add(1, Ordering::Relaxed) + 1;
        let ephemeral = hub.desk.lock().spec.ephemeral;
        Ok(Arc::new(AmqpConsumer::new(hub, &member, id, ephemeral)))
    }

    fn admin(&self) -> &dyn Admin {
        self
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        self
    }

    fn history(&self) -> Result<&dyn History> {
        let text = "RabbitMQ keeps no history: what is settled is gone";
        Err(Error::new(ErrorKind::Unsupported, text))
    }

    fn state(&self) -> &dyn State {
        self
    }

    async fn close(&self) -> Result<()> {
        if self.stream.line.check_open().is_err() {
            return Ok(());
        }
        let hubs: Vec<_> = self
            .stream
            .hubs
            .lock()
            .drain()
            .map(|(_, hub)| hub)
            .collect();
        futures::future::join_all(hubs.iter().map(|hub| hub.stop())).await;
        let kept = self.stream.keep_counts(&hubs).await;
        futures::join!(self.stream.line.close(), self.stream.out.close());
        for hub in &hubs {
            hub.wake.notify_waiters();
        }
        kept
    }
}

impl Stream {
    /// The hub of a subscription that exists, started if need be.
    async fn join(self: &Arc<Self>, name: &SubscriptionName) -> Result<Arc<Hub>> {
        self.line.check_open()?;
        let _joining = self.joining.lock().await;
        if let Some(hub) = self.hub(name) {
            hub.members.fetch_add(1, Ordering::Relaxed);
            return Ok(hub);
        }
        let stored = self.stored(name).await?;
        let epoch = u64::try_from(self.now().as_micros()).unwrap_or(0);
        let mut desk = Desk::new(stored.spec(name)?, epoch);
        desk.paused = stored.paused;
        desk.acknowledged = stored.acknowledged;
        desk.dropped = stored.dropped;
        let queue = self.queue_of(name);
        let passes_on = stored.passes_on && self.passes_on(&desk.spec);
        let hub = Hub::start(self.clone(), name.clone(), queue, desk, passes_on);
        hub.members.fetch_add(1, Ordering::Relaxed);
        self.hubs.lock().insert(name.clone(), hub.clone());
        Ok(hub)
    }

    /// A member goes. After the last of them nothing is held here that others could have.
    pub(crate) async fn leave(&self, hub: &Arc<Hub>) -> Result<()> {
        let _joining = self.joining.lock().await;
        if hub.members.fetch_sub(1, Ordering::Relaxed) > 1 || self.line.check_open().is_err() {
            return Ok(());
        }
        hub.stop().await;
        let kept = self.keep_counts(std::slice::from_ref(hub)).await;
        self.forget(hub);
        kept
    }

    /// The same for one that lives in this process only.
    pub(crate) async fn start_ephemeral(
        self: &Arc<Self>,
        spec: &fanfare_core::subscription::SubscriptionSpec,
    ) -> Result<()> {
        let channel = self.line.channel().await?;
        let queue = self.part(&format!(
            "e.{}.{}",
            spec.name,
            uuid::Uuid::now_v7().simple()
        ));
        let options = QueueDeclareOptions {
            exclusive: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel.queue_declare(queue.as_str().into(), options, FieldTable::default());
        declared.await.map_err(error::of)?;
        for key in subscription::keys(&spec.patterns) {
            self.bind(&channel, &queue, self.exchange_name(), &key)
                .await?;
        }
        let epoch = u64::try_from(self.now().as_micros()).unwrap_or(0);
        let desk = Desk::new(spec.clone(), epoch);
        let hub = Hub::start(self.clone(), spec.name.clone(), queue, desk, false);
        self.hubs.lock().insert(spec.name.clone(), hub);
        Ok(())
    }

    pub(crate) async fn end_ephemeral(&self, name: &SubscriptionName) {
        let hub = self.hubs.lock().remove(name);
        let Some(hub) = hub else { return };
        hub.desk.lock().gone = true;
        hub.stop().await;
        if let Ok(channel) = self.line.channel().await {
            let options = lapin::options::QueueDeleteOptions::default();
            let _ = channel
                .queue_delete(hub.queue.as_str().into(), options)
                .await;
            let _ = channel.close(200, "done".into()).await;
        }
    }
}

impl fmt::Debug for AmqpBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpBackend")
            .field("config", &self.stream.line.config)
            .finish_non_exhaustive()
    }
}
