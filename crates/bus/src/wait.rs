//! `publish_and_wait`: publish durably, then hear from each subscription of this process how its
//! delivery ended. It never waits for other processes.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fanfare_core::Result;
use fanfare_core::backend::Published;
use fanfare_core::delivery::Settlement;
use fanfare_core::error::{Error, ErrorKind};
use fanfare_core::event::Event;
use fanfare_core::history::DeliveryState;
use fanfare_core::id::EventId;
use fanfare_core::subscription::SubscriptionName;
use futures::future::{Either, select};
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::bus::Bus;
use crate::event::IntoEvent;

/// What became of a published event within the deadline.
#[derive(Debug, Clone, PartialEq)]
pub struct Waited {
    /// The durable acknowledgement.
    pub published: Published,
    /// Each subscription of this process that receives the event, in the order in which they
    /// were started.
    pub subscriptions: Vec<WaitedFor>,
}

impl Waited {
    /// Whether every subscription settled it.
    pub fn is_settled(&self) -> bool {
        self.subscriptions.iter().all(|s| s.settled.is_some())
    }
}

/// One subscription's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct WaitedFor {
    /// Which.
    pub subscription: SubscriptionName,
    /// The final settlement and the attempt that led to it; none while it is pending.
    pub settled: Option<(Settlement, u32)>,
}

impl Bus {
    /// Publishes an event durably, then waits until each subscription with a handler in this
    /// process has settled it for good, or the deadline is over. Retries in between do not count
    /// as settled. For an event that was published before, the backend's history answers where it
    /// can; it does not tell an ack from a drop, nor why a delivery is dead.
    pub fn publish_and_wait(
        &self,
        event: impl IntoEvent,
        deadline: Duration,
    ) -> impl Future<Output = Result<Waited>> + Send + '_ {
        let event = self.prepare(event);
        async move {
            let event = event?;
            let names = self.local_subscriptions(&event);
            // Registered first: a delivery may be settled before the publish returns.
            let waiter = self.0.waiters.register(&event, names)?;
            let published = self.0.sender.send_one(&event).await?;
            if published.duplicate {
                self.look_up(&waiter, &event, published).await;
            }
            waiter.wait(self, deadline).await;
            Ok(Waited {
                published,
                subscriptions: waiter.answers(),
            })
        }
    }

    /// A repeated event may have been settled before anybody waited: the backend may know.
    async fn look_up(&self, waiter: &Waiter, event: &Event, published: Published) {
        let (Ok(history), Some(position)) = (self.backend().history(), published.position) else {
            return;
        };
        for delivery in history.deliveries(position).await.unwrap_or_default() {
            let settlement = match delivery.state {
                DeliveryState::Settled => Settlement::Ack,
                DeliveryState::Dead => Settlement::DeadLetter {
                    reason: String::new(),
                    error: String::new(),
                },
                DeliveryState::Waiting | DeliveryState::InFlight => continue,
            };
            let attempts = delivery.attempts;
            waiter
                .waiters
                .settled(&delivery.subscription, event, &settlement, attempts);
        }
    }

    fn local_subscriptions(&self, event: &Event) -> Vec<SubscriptionName> {
        let mut names: Vec<SubscriptionName> = Vec::new();
        for core in self.cores() {
            if core.receives(event) && !names.contains(core.name()) {
                names.push(core.name().clone());
            }
        }
        names
    }
}

type Identity = (EventId, Arc<str>);
type Answers = watch::Sender<Vec<WaitedFor>>;

/// Who waits for which event.
pub(crate) struct Waiters {
    limit: usize,
    count: AtomicUsize,
    waiting: Mutex<HashMap<Identity, Vec<Arc<Answers>>>>,
}

impl Waiters {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            count: AtomicUsize::new(0),
            waiting: Mutex::default(),
        }
    }

    fn register(self: &Arc<Self>, event: &Event, names: Vec<SubscriptionName>) -> Result<Waiter> {
        if self.count.fetch_add(1, Ordering::AcqRel) >= self.limit {
            self.count.fetch_sub(1, Ordering::AcqRel);
            let text = format!("{} callers wait already", self.limit);
            return Err(Error::new(ErrorKind::Full, text).during("publish_and_wait"));
        }
        let pending = |subscription| WaitedFor {
            subscription,
            settled: None,
        };
        let answers = Arc::new(watch::Sender::new(names.into_iter().map(pending).collect()));
        let identity = identity(event);
        let mut waiting = self.waiting.lock();
        let entry = waiting.entry(identity.clone()).or_default();
        entry.push(Arc::clone(&answers));
        Ok(Waiter {
            waiters: Arc::clone(self),
            identity,
            answers,
        })
    }

    /// Tells those who wait for `event` how `subscription` settled it.
    pub(crate) fn settled(
        &self,
        subscription: &SubscriptionName,
        event: &Event,
        settlement: &Settlement,
        attempt: u32,
    ) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        if matches!(settlement, Settlement::Retry { .. } | Settlement::Release) {
            return;
        }
        let waiting = self.waiting.lock();
        for answers in waiting.get(&identity(event)).into_iter().flatten() {
            answers.send_modify(|answers| {
                let mine = answers.iter_mut().find(|a| a.subscription == *subscription);
                if let Some(answer) = mine {
                    answer.settled = Some((settlement.clone(), attempt));
                }
            });
        }
    }
}

fn identity(event: &Event) -> Identity {
    (event.id().clone(), Arc::clone(event.source()))
}

struct Waiter {
    waiters: Arc<Waiters>,
    identity: Identity,
    answers: Arc<Answers>,
}

impl Waiter {
    async fn wait(&self, bus: &Bus, deadline: Duration) {
        let mut answers = self.answers.subscribe();
        let all = pin!(answers.wait_for(|answers| answers.iter().all(|a| a.settled.is_some())));
        let timeout = pin!(bus.clock().sleep(deadline));
        match select(all, timeout).await {
            Either::Left(_) | Either::Right(_) => {}
        }
    }

    fn answers(&self) -> Vec<WaitedFor> {
        self.answers.borrow().clone()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut waiting = self.waiters.waiting.lock();
        if let Some(entry) = waiting.get_mut(&self.identity) {
            entry.retain(|answers| !Arc::ptr_eq(answers, &self.answers));
            if entry.is_empty() {
                waiting.remove(&self.identity);
            }
        }
        self.waiters.count.fetch_sub(1, Ordering::AcqRel);
    }
}
