//! One member of a subscription: receive, settle, extend, close.

mod claim;
mod group;

use std::collections::VecDeque;
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

use self::claim::Claimed;
use crate::connect::{Arguments, Wire};
use crate::log::{Frame, Log};
use crate::scripts;
use crate::settle::{self, How};
use crate::subscription::{Stored, restore, unknown};

pub(crate) use self::claim::bodies;

/// How often a waiting member asks, in case a wake-up was lost with a connection.
const POLL: Duration = Duration::from_secs(5);

/// One member.
pub(crate) struct RedisConsumer {
    inner: Arc<Inner>,
    woken: Arc<Notify>,
}

struct Inner {
    wire: Arc<Wire>,
    log: Arc<Log>,
    name: SubscriptionName,
    /// 16 hexadecimal digits that no other member has.
    member: String,
    kind: MemberKind,
    closed: watch::Receiver<bool>,
    /// As last seen.
    stored: RwLock<Arc<Stored>>,
    place: tokio::sync::Mutex<Place>,
    /// Claimed, not yet handed out.
    ready: Mutex<VecDeque<Delivery>>,
    /// What a consumer group of Redis gave us, not yet claimed.
    given: group::Given,
}

/// How far this member has looked.
struct Place {
    /// The subscription's, as last heard.
    frontier: u128,
    /// Nothing between the frontier and here matches.
    scanned: u128,
    /// Frames read ahead.
    page: VecDeque<Arc<Frame>>,
    /// When an ephemeral subscription last said that it lives.
    alive: Timestamp,
}

impl RedisConsumer {
    pub(crate) async fn join(
        wire: Arc<Wire>,
        log: Arc<Log>,
        name: &SubscriptionName,
        member: &Member,
        closed: watch::Receiver<bool>,
    ) -> Result<Self> {
        let stored = Stored::load(&wire, name)
            .await?
            .ok_or_else(|| unknown(name))?;
        let (high, low) = Uuid::now_v7().as_u64_pair();
        let place = Place {
            frontier: stored.frontier,
            scanned: stored.frontier,
            page: VecDeque::new(),
            alive: wire.config.clock.now(),
        };
        log.note_settled().await?;
        let woken = log.woken(name.as_str());
        let inner = Inner {
            wire,
            log,
            name: name.clone(),
            member: format!("{:016x}", high.rotate_left(32) ^ low),
            kind: member.kind,
            closed,
            stored: RwLock::new(Arc::new(stored)),
            place: tokio::sync::Mutex::new(place),
            ready: Mutex::default(),
            given: group::Given::default(),
        };
        let inner = Arc::new(inner);
        group::start(&inner);
        Ok(Self { inner, woken })
    }

    pub(crate) fn kind(&self) -> MemberKind {
        self.inner.kind
    }

    /// Gives back what this member holds.
    pub(crate) async fn release(&self) -> Result<()> {
        let inner = &self.inner;
        let is_group = inner.stored.read().group;
        if is_group {
            inner.stop_reading().await;
            inner.keep_group(true).await?;
        }
        inner.ready.lock().clear();
        // A claim that is on its way is waited for, so that it is given back too.
        let _place = inner.place.lock().await;
        inner.ready.lock().clear();
        let stored = inner.stored.read().clone();
        if stored.spec.ephemeral {
            let arguments = Arguments::default().text(inner.name.as_str()).number(0);
            inner.wire.script(&scripts::DELETE, &arguments).await?;
        } else {
            let arguments = Arguments::default()
                .text(inner.name.as_str())
                .text(&inner.member);
            inner.wire.script(&scripts::RELEASE, &arguments).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Consumer for RedisConsumer {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let inner = &self.inner;
        let clock = &inner.wire.config.clock;
        let deadline = clock.now() + wait;
        let is_group = inner.stored.read().group;
        let mut appended = if is_group {
            inner.given.arrived()
        } else {
            inner.log.appended()
        };
        let mut closed = inner.closed.clone();
        let (mut ask, mut last) = (true, false);
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
            let claiming = if is_group {
                tokio::spawn(inner.clone().claim_given(max, (!last).then_some(deadline)))
            } else {
                tokio::spawn(inner.clone().claim(max, ask))
            };
            let claimed = claiming
                .await
                .map_err(|e| Error::new(ErrorKind::Internal, "a claim did not end").because(e))??;
            let next = match claimed {
                Claimed::More => continue,
                Claimed::Nothing(next) => next.unwrap_or(POLL).min(POLL),
            };
            let now = clock.now();
            if now >= deadline {
                if last || !inner.given.is_read() {
                    return Ok(Vec::new());
                }
                // What Redis gives at the last moment is not to lie here.
                last = true;
                inner.read_ended(&mut appended).await;
                continue;
            }
            let pause = next.min(deadline.since(now));
            tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => {}
                () = woken => ask = true,
                _ = appended.changed() => ask = is_group,
                () = clock.sleep(pause) => ask = true,
            }
        }
    }

    async fn settle(&self, settlements: Vec<(Receipt, Settlement)>) -> Result<Vec<Settled>> {
        let inner = &self.inner;
        inner.check_open()?;
        let stored = inner.stored.read().clone();
        let meant = |all: Vec<(Receipt, Settlement)>| {
            let each = all.into_iter().map(|(receipt, how)| (receipt, how.into()));
            settle::settle(&inner.wire, &inner.log, &stored.spec, each.collect())
        };
        match meant(settlements.clone()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Made again, it knows nothing of these: they are late, and come again.
                inner.restore().await?;
                meant(settlements).await
            }
            settled => settled,
        }
    }

    async fn extend(&self, receipts: &[Receipt], lease: Duration) -> Result<Vec<Settled>> {
        let inner = &self.inner;
        inner.check_open()?;
        let stored = inner.stored.read().clone();
        settle::extend(&inner.wire, &stored.spec, receipts, lease).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.check_open()?;
        self.release().await
    }
}

impl Inner {
    fn check_open(&self) -> Result<()> {
        if *self.closed.borrow() {
            return Err(Error::new(ErrorKind::Closed, "the backend is closed"));
        }
        Ok(())
    }

    /// Makes the subscription again where its keys are gone.
    async fn restore(&self) -> Result<()> {
        let stored = self.stored.read().clone();
        restore(&self.wire, &stored, self.log.settled(&self.name)).await
    }

    /// What was claimed and is still ours. What lay here longer than its lease goes back as not
    /// started, unless somebody took it already.
    async fn take_ready(&self, max: usize) -> Result<Vec<Delivery>> {
        let now = self.wire.config.clock.now();
        let (taken, stale): (Vec<Delivery>, Vec<Delivery>) = {
            let mut ready = self.ready.lock();
            let count = max.min(ready.len());
            ready
                .drain(..count)
                .partition(|delivery| delivery.lease_until > now)
        };
        if !stale.is_empty() {
            let stored = self.stored.read().clone();
            let releases = stale.iter().map(|d| (d.receipt, How::Release)).collect();
            settle::settle(&self.wire, &self.log, &stored.spec, releases).await?;
        }
        Ok(taken)
    }
}
