//! The tasks of one subscription in this process, and how they start and stop.
//!
//! ```text
//! receive loop -> mailbox -> workers (handlers) -> done -> settle loop -> backend
//!       ^                                                      |
//!       `------------------ room in the window <---------------'
//! ```
//!
//! Beside the settle loop a heartbeat extends the lease of everything held.
//!
//! The number of tasks depends on the subscription's options, never on the number of events.

mod heartbeat;
mod receive;
mod run;
mod settle;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use fanfare_core::Result;
use fanfare_core::backend::Backend;
use fanfare_core::clock::Clock;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::delivery::{Delivery, Receipt, Settlement};
use fanfare_core::error::Error;
use fanfare_core::event::Event;
use fanfare_core::position::Position;
use fanfare_core::subscription::{SubscriptionName, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;
use futures::future::{Either, join_all, select};
use hashbrown::HashSet;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::bus::Bus;
use crate::dispatch::{Dispatch, Handling};
use crate::extract::States;
use crate::handler::{Outcome, Scope};
use crate::mailbox::Mailbox;
use crate::options::{Limits, Unhandled};
use crate::router::Routes;
use crate::telemetry::{Consuming, SubscriptionStats, Telemetry};
use crate::wait::Waiters;

/// The most handlers of one subscription that run at once.
const MAX_CONCURRENCY: usize = 65_536;
/// How long tasks may take to end once their handlers were cut off; one that blocks its thread
/// cannot be ended at all.
const END_WAIT: Duration = Duration::from_secs(5);

/// Options that are this process's own, not the subscription's.
#[derive(Debug, Clone)]
pub(crate) struct CoreOptions {
    pub(crate) concurrency: usize,
    pub(crate) timeout: Option<Duration>,
    pub(crate) prefetch: Option<usize>,
    pub(crate) unhandled: Unhandled,
}

impl Default for CoreOptions {
    fn default() -> Self {
        Self {
            concurrency: 1,
            timeout: None,
            prefetch: None,
            unhandled: Unhandled::Ack,
        }
    }
}

impl CoreOptions {
    pub(crate) fn check(&self) -> Result<()> {
        if !(1..=MAX_CONCURRENCY).contains(&self.concurrency) {
            let text = format!("concurrency must be 1 to {MAX_CONCURRENCY}");
            return Err(Error::invalid("/concurrency", text));
        }
        if self.prefetch == Some(0) {
            return Err(Error::invalid("/prefetch", "prefetch must be at least 1"));
        }
        Ok(())
    }
}

/// Where a subscription's tasks are in their life. Each stage includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// All is well.
    Running,
    /// Nothing new is received or started.
    Draining,
    /// Whatever is left is given up: it comes back by itself.
    Cut,
    /// The consumer is closed.
    Ended,
}

/// What stopping a subscription did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stopped {
    pub(crate) released: u64,
    pub(crate) cut_off: u64,
    pub(crate) unsettled: u64,
}

/// What every task of a subscription shares.
pub(crate) struct Core {
    spec: SubscriptionSpec,
    concurrency: usize,
    prefetch: usize,
    backend: Arc<dyn Backend>,
    consumer: RwLock<Arc<dyn Consumer>>,
    member: Member,
    dispatch: Arc<Dispatch>,
    limits: Limits,
    clock: Clock,
    telemetry: Arc<Telemetry>,
    consuming: Arc<Consuming>,
    waiters: Arc<Waiters>,
    stage: watch::Sender<Stage>,
    mailbox: Mailbox,
    held: Mutex<Held>,
    /// Whether anything held is lost: saves a lock per delivery.
    any_lost: AtomicBool,
    /// There is room for more deliveries.
    room: Notify,
    done: Mutex<Vec<Finished>>,
    /// Something is done.
    settle: Notify,
    /// Settlements were answered and counted.
    counted: Notify,
    /// Tasks that may still receive or finish deliveries.
    busy: AtomicUsize,
    failing: Mutex<Option<String>>,
    released: AtomicU64,
    cut_off: AtomicU64,
    unsettled: AtomicU64,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// The leases that this member has.
#[derive(Default)]
struct Held {
    leases: HashSet<Receipt>,
    /// Of the data of their events.
    bytes: usize,
    /// Held once, but somebody else may own them now: neither started nor settled.
    lost: HashSet<Receipt>,
    newest: Position,
}

/// A delivery on its way to its settlement.
struct Finished {
    event: Event,
    receipt: Receipt,
    attempt: u32,
    settlement: Settlement,
    /// None when no handler ran.
    took: Option<Duration>,
}

impl Core {
    /// Joins the subscription and starts its tasks.
    pub(crate) async fn start(
        bus: &Bus,
        spec: SubscriptionSpec,
        options: CoreOptions,
        routes: Routes,
        states: States,
    ) -> Result<Arc<Self>> {
        let backend = Arc::clone(bus.backend());
        let instance = bus.0.instance.as_deref().unwrap_or("member");
        let member = Member {
            name: format!("{instance}-{}", std::process::id()),
            kind: MemberKind::Embedded,
        };
        let consumer = backend.consume(&spec.name, member.clone()).await?;
        let consuming = bus.telemetry().consuming(&spec.name);
        let stage = watch::Sender::new(Stage::Running);
        let dispatch = Dispatch {
            routes,
            scope: Arc::new(Scope {
                subscription: spec.name.clone(),
                states,
                bus: bus.downgrade(),
                stage: stage.subscribe(),
                trouble: Mutex::default(),
            }),
            timeout: options.timeout,
            unhandled: options.unhandled,
            clock: bus.clock().clone(),
            consuming: Arc::clone(&consuming),
        };
        let workers = options.concurrency.min(cores()).max(1);
        let limits = bus.limits().clone();
        let core = Arc::new(Self {
            concurrency: options.concurrency,
            prefetch: options
                .prefetch
                .unwrap_or(limits.prefetch)
                .clamp(1, limits.prefetch.max(1)),
            backend,
            consumer: RwLock::new(consumer),
            member,
            dispatch: Arc::new(dispatch),
            clock: bus.clock().clone(),
            telemetry: Arc::clone(bus.telemetry()),
            consuming,
            waiters: Arc::clone(&bus.0.waiters),
            stage,
            mailbox: Mailbox::new(workers),
            held: Mutex::default(),
            any_lost: AtomicBool::new(false),
            room: Notify::new(),
            done: Mutex::default(),
            settle: Notify::new(),
            counted: Notify::new(),
            busy: AtomicUsize::new(workers + 1),
            failing: Mutex::default(),
            released: AtomicU64::new(0),
            cut_off: AtomicU64::new(0),
            unsettled: AtomicU64::new(0),
            tasks: Mutex::default(),
            limits,
            spec,
        });
        core.spawn(bus, workers);
        Ok(core)
    }

    fn spawn(self: &Arc<Self>, bus: &Bus, workers: usize) {
        let runtime = &bus.0.runtime;
        let mut tasks = self.tasks.lock();
        tasks.push(runtime.spawn(settle::run(Arc::clone(self))));
        tasks.push(runtime.spawn(receive::run(Arc::clone(self))));
        for worker in 0..workers {
            // The first workers take what does not divide evenly.
            let slots = (self.concurrency + workers - 1 - worker) / workers;
            tasks.push(runtime.spawn(run::run(Arc::clone(self), worker, slots)));
        }
    }

    pub(crate) fn name(&self) -> &SubscriptionName {
        &self.spec.name
    }

    pub(crate) fn spec(&self) -> &SubscriptionSpec {
        &self.spec
    }

    pub(crate) fn receives(&self, event: &Event) -> bool {
        self.spec.patterns.matches(event.event_type())
    }

    pub(crate) async fn until(&self, reached: impl Fn(&SubscriptionStats) -> bool) {
        loop {
            let mut counted = pin!(self.counted.notified());
            // Before looking: what is counted meanwhile is then not missed.
            counted.as_mut().enable();
            if reached(&self.stats()) {
                return;
            }
            counted.await;
        }
    }

    pub(crate) fn stats(&self) -> SubscriptionStats {
        SubscriptionStats::of(&self.spec.name, &self.consuming)
    }

    /// The last error while the backend, or what the handler needs, cannot be reached.
    pub(crate) fn failing(&self) -> Option<String> {
        let failing = self.failing.lock().clone();
        failing.or_else(|| self.dispatch.scope.trouble.lock().clone())
    }

    /// Runs the handler on an event that was never stored, in the caller's task.
    pub(crate) async fn run_here(&self, event: Event) -> Outcome {
        let now = self.clock.now();
        let delivery = Delivery {
            event,
            position: Position::START,
            attempt: 1,
            receipt: Receipt {
                position: Position::START,
                epoch: 0,
            },
            lease_until: Timestamp::MAX,
        };
        let handling = Handling {
            running: Some(self.dispatch.start(delivery, now)),
            dispatch: Arc::clone(&self.dispatch),
        };
        handling.await.map_or(Outcome::Ack, |(_, outcome)| outcome)
    }

    /// Ends the tasks at once; what is held comes back by itself.
    pub(crate) fn abandon(&self) {
        self.advance(Stage::Cut);
        self.mailbox.close();
    }

    /// Drains until `deadline`, then cuts off. Fine more than once, and when a caller stops
    /// waiting.
    pub(crate) async fn stop(&self, deadline: Timestamp) -> Stopped {
        self.advance(Stage::Draining);
        self.release(self.mailbox.close());
        if !self.ended_by(deadline).await {
            self.advance(Stage::Cut);
            if !self.ended_by(self.clock.now() + END_WAIT).await {
                tracing::error!(subscription = %self.spec.name, "its tasks do not end: does a handler block its thread?");
            }
        }
        if *self.stage.borrow() == Stage::Ended {
            let tasks = std::mem::take(&mut *self.tasks.lock());
            join_all(tasks).await;
        }
        Stopped {
            released: self.released.load(Ordering::Relaxed),
            cut_off: self.cut_off.load(Ordering::Relaxed),
            unsettled: self.unsettled.load(Ordering::Relaxed),
        }
    }

    async fn ended_by(&self, deadline: Timestamp) -> bool {
        let ended = pin!(self.reached(Stage::Ended));
        let timeout = pin!(self.clock.sleep_until(deadline));
        matches!(select(ended, timeout).await, Either::Left(_))
    }

    fn advance(&self, stage: Stage) {
        self.stage.send_if_modified(|current| {
            let forward = *current < stage;
            *current = (*current).max(stage);
            forward
        });
    }

    /// Gives back deliveries that were not started.
    fn release(&self, deliveries: impl IntoIterator<Item = Delivery>) {
        let finished: Vec<Finished> = deliveries
            .into_iter()
            .map(|delivery| Finished {
                event: delivery.event,
                receipt: delivery.receipt,
                attempt: delivery.attempt,
                settlement: Settlement::Release,
                took: None,
            })
            .collect();
        let n = u64::try_from(finished.len()).unwrap_or(u64::MAX);
        self.released.fetch_add(n, Ordering::Relaxed);
        self.finish(finished);
    }

    /// Whether somebody else may own a delivery that we hold.
    fn is_lost(&self, receipt: &Receipt) -> bool {
        self.any_lost.load(Ordering::Acquire) && self.held.lock().lost.contains(receipt)
    }

    /// Hands finished deliveries to the settle loop.
    fn finish(&self, finished: impl IntoIterator<Item = Finished>) {
        self.done.lock().extend(finished);
        self.settle.notify_one();
    }

    fn consumer(&self) -> Arc<dyn Consumer> {
        Arc::clone(&self.consumer.read())
    }

    /// Completes when the subscription is at `stage` or further.
    async fn reached(&self, stage: Stage) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.stage.subscribe().wait_for(|now| *now >= stage).await;
    }
}

/// Held by every task that may still receive or finish deliveries: the consumer is closed after
/// the last of them, so that nothing is leased to a member that is gone.
struct Busy(Arc<Core>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
        self.0.settle.notify_one();
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
