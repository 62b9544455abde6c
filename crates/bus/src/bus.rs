//! The bus: its builder and its handle. What each verb does lives in the file of that name.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use fanfare_core::Result;
use fanfare_core::backend::Backend;
use fanfare_core::clock::Clock;
use fanfare_core::error::{Error, ErrorKind};
use fanfare_core::event::Event;
use fanfare_core::event_type::EventType;
use fanfare_core::subscription::SubscriptionName;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::runtime::Handle;

use crate::emit::Publisher;
use crate::event::Origin;
use crate::lifecycle::Lifecycle;
use crate::options::Limits;
use crate::publish::Sender;
use crate::queue::Queue;
use crate::telemetry::{SubscriptionStats, Telemetry};
use crate::wait::Waiters;
use crate::worker::Core;

pub use crate::lifecycle::ShutdownReport;

/// A handle on one stream. Cheap to clone; dropping the last one ends its tasks at once, while
/// [`Bus::shutdown`] drains them first.
#[derive(Clone)]
pub struct Bus(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) sender: Arc<Sender>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) publishers: Vec<Arc<dyn Publisher>>,
    pub(crate) source: Arc<str>,
    pub(crate) instance: Option<Arc<str>>,
    pub(crate) group: Option<String>,
    pub(crate) runtime: Handle,
    /// In the order in which they were started.
    pub(crate) subscriptions: Mutex<Vec<Arc<Core>>>,
    pub(crate) closes_backend: bool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.abandon();
        for core in self.subscriptions.get_mut().drain(..) {
            core.abandon();
        }
    }
}

/// A bus that may be gone.
#[derive(Clone)]
pub(crate) struct WeakBus(Weak<Inner>);

impl WeakBus {
    pub(crate) fn upgrade(&self) -> Option<Bus> {
        self.0.upgrade().map(Bus)
    }
}

/// What goes on in a bus.
#[derive(Debug, Clone, Serialize)]
pub struct Stats {
    /// Events stored, repeats not counted.
    pub published: u64,
    /// Publishes that found their event there already.
    pub duplicates: u64,
    /// Publishes that failed or whose outcome is not known.
    pub publish_failures: u64,
    /// Events that wait in the queue of `try_publish`, or are on their way from it.
    pub queue_size: usize,
    /// Times that `try_publish` answered `Full`.
    pub queue_full: u64,
    /// Events of the queue that could not be published.
    pub queue_failures: u64,
    /// The subscriptions with handlers in this process, in the order in which they were started.
    pub subscriptions: Vec<SubscriptionStats>,
}

/// Whether the bus works now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Whether publishing and every subscription work.
    pub ok: bool,
    /// `running`, `draining` or `closed`.
    pub phase: &'static str,
    /// What the backend says.
    pub backend: fanfare_core::admin::Health,
    /// Events in the queue of `try_publish`.
    pub queue_size: usize,
    /// Subscriptions that cannot reach their backend now: name and last error.
    pub failing: Vec<(String, String)>,
}

impl Bus {
    /// Starts a bus on `backend`.
    pub fn builder(backend: Arc<dyn Backend>) -> BusBuilder {
        BusBuilder {
            backend,
            limits: Limits::default(),
            clock: Clock::system(),
            source: "/".into(),
            instance: None,
            group: None,
            publishers: Vec::new(),
            closes_backend: true,
        }
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        self.0.sender.backend()
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        self.0.sender.clock()
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        self.0.sender.limits()
    }

    /// The counters behind the metrics.
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        self.0.sender.telemetry()
    }

    /// What goes on.
    pub fn stats(&self) -> Stats {
        let publishing = &self.telemetry().publishing;
        Stats {
            published: publishing.published.get(),
            duplicates: publishing.duplicates.get(),
            publish_failures: publishing.failures.get(),
            queue_size: self.0.queue.len(),
            queue_full: publishing.queue_full.get(),
            queue_failures: publishing.queue_failures.get(),
            subscriptions: self.cores().iter().map(|core| core.stats()).collect(),
        }
    }

    /// Whether it works now; answers without waiting for anything that is broken.
    pub async fn health(&self) -> Health {
        let backend = self.backend().admin().health().await;
        let failing: Vec<_> = self
            .cores()
            .iter()
            .filter_map(|core| Some((core.name().to_string(), core.failing()?)))
            .collect();
        let phase = self.0.lifecycle.phase().name();
        Health {
            ok: backend.ok && failing.is_empty() && phase == "running",
            phase,
            backend,
            queue_size: self.0.queue.len(),
            failing,
        }
    }

    /// Stops taking, lets running handlers finish for at most `grace`, releases the rest, empties
    /// the queue of `try_publish`, and closes the backend. Fine at any moment and more than once:
    /// every call answers the same report.
    pub async fn shutdown(&self, grace: Duration) -> Result<ShutdownReport> {
        self.0.lifecycle.shutdown(self, grace).await
    }

    pub(crate) fn origin(&self) -> Origin<'_> {
        Origin::new(&self.0.source, self.0.instance.as_ref(), self.clock())
    }

    pub(crate) fn cores(&self) -> Vec<Arc<Core>> {
        self.0.subscriptions.lock().clone()
    }

    pub(crate) fn downgrade(&self) -> WeakBus {
        WeakBus(Arc::downgrade(&self.0))
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("backend", self.backend())
            .finish_non_exhaustive()
    }
}

/// Collects the options of a [`Bus`].
#[derive(Debug)]
pub struct BusBuilder {
    backend: Arc<dyn Backend>,
    limits: Limits,
    clock: Clock,
    source: Arc<str>,
    instance: Option<Arc<str>>,
    group: Option<String>,
    publishers: Vec<Arc<dyn Publisher>>,
    closes_backend: bool,
}

impl BusBuilder {
    /// The source of events that name none. Default `/`.
    #[must_use]
    pub fn source(mut self, source: impl Into<Arc<str>>) -> Self {
        self.source = source.into();
        self
    }

    /// Names this process in the extension `instanceid` of what it publishes. Default none.
    #[must_use]
    pub fn instance(mut self, id: impl Into<Arc<str>>) -> Self {
        self.instance = Some(id.into());
        self
    }

    /// Makes handlers registered without a subscription name durable, as `<group>.<handler name>`.
    /// Default none: they are broadcast.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// The limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The most events in the queue of `try_publish`. Default 1,000.
    #[must_use]
    pub fn queue_capacity(mut self, events: usize) -> Self {
        self.limits.queue_events = events;
        self
    }

    /// The clock; must be the backend's own in tests with a manual one.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Another place that [`Bus::emit`] forwards to, after the local handlers.
    #[must_use]
    pub fn publisher(mut self, publisher: Arc<dyn Publisher>) -> Self {
        self.publishers.push(publisher);
        self
    }

    /// Whether shutting down the bus closes the backend. Default true; false where several buses
    /// share one.
    #[must_use]
    pub fn closes_backend(mut self, closes: bool) -> Self {
        self.closes_backend = closes;
        self
    }

    /// What publishers and subscribers would only find out later.
    fn check(&self) -> Result<()> {
        let probe = Event::builder(EventType::parse("probe")?).source(Arc::clone(&self.source));
        let group = self
            .group
            .as_deref()
            .map_or(Ok(()), |group| SubscriptionName::parse(group).map(|_| ()));
        let checks = [self.limits.check(), probe.build().map(|_| ()), group];
        let violations: Vec<_> = checks
            .into_iter()
            .filter_map(Result::err)
            .flat_map(|error| error.violations().to_vec())
            .collect();
        if violations.is_empty() {
            Ok(())
        } else {
            Err(Error::violating(violations))
        }
    }

    /// Starts the bus, inside a tokio runtime.
    pub fn build(self) -> Result<Bus> {
        self.check()?;
        let runtime = Handle::try_current().map_err(|e| {
            Error::new(ErrorKind::Invalid, "a bus is built inside a tokio runtime").because(e)
        })?;
        let telemetry = Arc::new(Telemetry::new(self.limits.label_sets));
        let sender = Arc::new(Sender::new(
            self.backend,
            self.clock,
            self.limits,
            telemetry,
        ));
        let queue = Queue::start(Arc::clone(&sender), &runtime);
        Ok(Bus(Arc::new(Inner {
            queue,
            waiters: Arc::new(Waiters::new(sender.limits().waiters)),
            sender,
            lifecycle: Lifecycle::default(),
            publishers: self.publishers,
            source: self.source,
            instance: self.instance,
            group: self.group,
            runtime,
            subscriptions: Mutex::default(),
            closes_backend: self.closes_backend,
        })))
    }
}
