//! One member of a subscription: receive, settle, extend, close.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::claim::Claimed;
use crate::engine::Engine;
use crate::settle::{extend, settle};
use crate::subscription::{Stored, unknown};

/// How often a waiting member asks, in case a wake-up was lost with a connection.
const POLL: Duration = Duration::from_secs(5);

/// One member.
pub struct FleetConsumer<E: Engine> {
    inner: Arc<Inner<E>>,
    woken: Arc<Notify>,
}

pub(crate) struct Inner<E: Engine> {
    pub(crate) engine: Arc<E>,
    pub(crate) name: SubscriptionName,
    /// No other member has this number.
    pub(crate) member: u64,
    pub(crate) kind: MemberKind,
    closed: watch::Receiver<bool>,
    /// As last seen.
    pub(crate) stored: RwLock<Arc<Stored>>,
    pub(crate) place: tokio::sync::Mutex<Place<E::Page>>,
    /// Claimed, not yet handed out.
    pub(crate) ready: Mutex<VecDeque<Delivery>>,
}

/// How far this member has looked.
pub(crate) struct Place<P> {
    /// The subscription's, as last heard.
    pub(crate) frontier: u128,
    /// Nothing between the frontier and here matches.
    pub(crate) scanned: u128,
    /// Pages read ahead.
    pub(crate) pages: VecDeque<Arc<P>>,
    /// When an ephemeral subscription last said that it lives.
    pub(crate) alive: Timestamp,
}

impl<E: Engine> FleetConsumer<E> {
    /// Joins a subscription that exists.
    pub async fn join(
        engine: Arc<E>,
        name: &SubscriptionName,
        member: &Member,
        closed: watch::Receiver<bool>,
    ) -> Result<Self> {
        let stored = engine.load(name).await?.ok_or_else(|| unknown(name))?;
        let (high, low) = Uuid::now_v7().as_u64_pair();
        let place = Place {
            frontier: stored.frontier,
            scanned: stored.frontier,
            pages: VecDeque::new(),
            alive: engine.clock().now(),
        };
        let woken = engine.woken(name);
        let inner = Inner {
            engine,
            name: name.clone(),
            member: high.rotate_left(32) ^ low,
            kind: member.kind,
            closed,
            stored: RwLock::new(Arc::new(stored)),
            place: tokio::sync::Mutex::new(place),
            ready: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
            woken,
        })
    }

    /// Where its handlers run.
    pub fn kind(&self) -> MemberKind {
        self.inner.kind
    }

    /// Gives back what this member holds.
    pub async fn release(&self) -> Result<()> {
        let inner = &self.inner;
        inner.ready.lock().clear();
        // A claim that is on its way is waited for, so that it is given back too.
        let _place = inner.place.lock().await;
        inner.ready.lock().clear();
        let stored = inner.stored.read().clone();
        if stored.spec.ephemeral {
            inner.engine.end(&inner.name).await
        } else {
            inner.engine.release(&inner.name, inner.member).await
        }
    }
}

#[async_trait]
impl<E: Engine> Consumer for FleetConsumer<E> {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let inner = &self.inner;
        let clock = inner.engine.clock();
        let deadline = clock.now() + wait;
        let mut appended = inner.engine.appended();
        let mut closed = inner.closed.clone();
        let mut ask = true;
        loop {
            inner.check_open()?;
            appended.mark_unchanged();
            let woken = self.woken.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let taken = inner.take_ready(max).await?;
            if !taken.is_empty() || max == 0 {
                return Ok(taken);
            }
            // On its own task: a claim that was sent is kept, even if nobody waits for it.
            let claiming = tokio::spawn(inner.clone().claim(max, ask));
            let claimed = claiming
                .await
                .map_err(|e| Error::new(ErrorKind::Internal, "a claim did not end").because(e))??;
            let next = match claimed {
                Claimed::More => continue,
                Claimed::Nothing(next) => next.unwrap_or(POLL).min(POLL),
            };
            let now = clock.now();
            if now >= deadline {
                return Ok(Vec::new());
            }
            let pause = next.min(deadline.since(now));
            tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => {}
                () = woken => ask = true,
                _ = appended.changed() => ask = false,
                () = clock.sleep(pause) => ask = true,
            }
        }
    }

    async fn settle(&self, settlements: Vec<(Receipt, Settlement)>) -> Result<Vec<Settled>> {
        let inner = &self.inner;
        inner.check_open()?;
        let stored = inner.stored.read().clone();
        settle(&*inner.engine, &stored, settlements).await
    }

    async fn extend(&self, receipts: &[Receipt], lease: Duration) -> Result<Vec<Settled>> {
        let inner = &self.inner;
        inner.check_open()?;
        let stored = inner.stored.read().clone();
        extend(&*inner.engine, &stored, receipts, lease).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.check_open()?;
        self.release().await
    }
}

impl<E: Engine> Inner<E> {
    fn check_open(&self) -> Result<()> {
        if *self.closed.borrow() {
            return Err(Error::new(ErrorKind::Closed, "the backend is closed"));
        }
        Ok(())
    }

    /// What was claimed and is still ours. What lay here longer than its lease goes back as not
    /// started, unless somebody took it already.
    async fn take_ready(&self, max: usize) -> Result<Vec<Delivery>> {
        let now = self.engine.clock().now();
        let (taken, stale): (Vec<Delivery>, Vec<Delivery>) = {
            let mut ready = self.ready.lock();
            let count = max.min(ready.len());
            ready
                .drain(..count)
                .partition(|delivery| delivery.lease_until > now)
        };
        if !stale.is_empty() {
            let stored = self.stored.read().clone();
            let releases = stale
                .iter()
                .map(|d| (d.receipt, Settlement::Release))
                .collect();
            settle(&*self.engine, &stored, releases).await?;
        }
        Ok(taken)
    }
}

impl<E: Engine> fmt::Debug for FleetConsumer<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetConsumer")
            .field("subscription", &self.inner.name)
            .finish_non_exhaustive()
    }
}
