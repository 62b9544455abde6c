//! What every request shares: the bus, the configuration, the slots that bound work, and whether
//! the server is draining.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fanfare::core::backend::Backend;
use fanfare::core::clock::Clock;
use fanfare::core::error::Result;
use fanfare::core::history::History;
use fanfare::core::subscription::SubscriptionName;
use fanfare::core::timestamp::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ServerConfig;
use crate::http::problem::{Code, Problem};
use crate::member::Member;
use fanfare::bus::Bus;

/// Cheap to clone; the state of the router.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

struct Inner {
    bus: Bus,
    config: ServerConfig,
    started: Timestamp,
    openapi: Bytes,
    draining: CancellationToken,
    tasks: TaskTracker,
    bodies: Arc<Semaphore>,
    publishing: Arc<Semaphore>,
    tails: Arc<Semaphore>,
    pulls: Arc<Semaphore>,
    members: Mutex<BTreeMap<SubscriptionName, Arc<Member>>>,
}

/// Which work is bounded.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Slot {
    Publishing,
    Tail,
    Pull,
}

impl App {
    pub(crate) fn new(bus: Bus, config: ServerConfig, openapi: Bytes) -> Self {
        let slots = |n| Arc::new(Semaphore::new(n));
        Self(Arc::new(Inner {
            started: bus.clock().now(),
            openapi,
            draining: CancellationToken::new(),
            tasks: TaskTracker::new(),
            bodies: slots(config.limits.bodies_bytes),
            publishing: slots(config.limits.publishing),
            tails: slots(config.limits.tails),
            pulls: slots(config.limits.pulls),
            members: Mutex::default(),
            bus,
            config,
        }))
    }

    pub(crate) fn bus(&self) -> &Bus {
        &self.0.bus
    }

    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        self.0.bus.backend()
    }

    pub(crate) fn history(&self) -> Result<&dyn History> {
        self.backend().history()
    }

    pub(crate) fn clock(&self) -> &Clock {
        self.0.bus.clock()
    }

    pub(crate) fn config(&self) -> &ServerConfig {
        &self.0.config
    }

    pub(crate) fn started(&self) -> Timestamp {
        self.0.started
    }

    pub(crate) fn openapi(&self) -> Bytes {
        self.0.openapi.clone()
    }

    /// Cancelled once the server shuts down.
    pub(crate) fn draining(&self) -> &CancellationToken {
        &self.0.draining
    }

    /// Background work of requests; the server waits for it before it is gone.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    /// Memory for a part of a body, or 429 at once.
    pub(crate) fn body_memory(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let memory = self.0.bodies.clone().try_acquire_many_owned(bytes);
        memory.map_err(|_| {
            let detail = "the requests at work take all the memory there is for bodies, try again";
            Problem::new(Code::Busy, detail)
        })
    }

    /// A place for bounded work, or 429 at once.
    pub(crate) fn slot(&self, slot: Slot) -> Result<OwnedSemaphorePermit, Problem> {
        let (slots, what, most) = match slot {
            Slot::Publishing => {
                let most = self.0.config.limits.publishing;
                (&self.0.publishing, "publish requests", most)
            }
            Slot::Tail => (&self.0.tails, "tails", self.0.config.limits.tails),
            Slot::Pull => (&self.0.pulls, "pulls", self.0.config.limits.pulls),
        };
        slots
            .clone()
            .try_acquire_owned()
            .map_err(|_| Problem::new(Code::Busy, format!("{most} {what} are at work, try again")))
    }

    /// How many tails are open.
    pub(crate) fn open_tails(&self) -> usize {
        self.0.config.limits.tails - self.0.tails.available_permits()
    }

    /// How many pulls are at work.
    pub(crate) fn open_pulls(&self) -> usize {
        self.0.config.limits.pulls - self.0.pulls.available_permits()
    }

    /// The member through which `name` is pulled over HTTP.
    pub(crate) async fn member(&self, name: &SubscriptionName) -> Result<Arc<Member>> {
        if let Some(known) = self.0.members.lock().get(name) {
            return Ok(known.clone());
        }
        let member = Arc::new(Member::join(self.bus(), name).await?);
        let mut members = self.0.members.lock();
        Ok(members.entry(name.clone()).or_insert(member).clone())
    }

    /// Forgets the member of a subscription that is gone.
    pub(crate) fn forget_member(&self, name: &SubscriptionName) {
        self.0.members.lock().remove(name);
    }
}
