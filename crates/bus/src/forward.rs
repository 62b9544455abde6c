//! Forwarding: a subscription whose handler publishes each event, unchanged, on another bus. The
//! events of a key arrive there in their order, and none is settled here before it is durable there.
//!
//! The target may be away for hours. Until it answers, a delivery is held, and given back uncounted
//! now and then, so that a member that does reach the target may have it. Only an event that the
//! target can never take becomes a dead letter.
//!
//! Not a bridge to other systems: both sides are buses.

use std::fmt;
use std::future::IntoFuture;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fanfare_core::Result;
use fanfare_core::backend::Published;
use fanfare_core::delivery::Settlement;
use fanfare_core::error::{Error, ErrorKind};
use fanfare_core::event::Event;
use fanfare_core::retry::RetryPolicy;
use fanfare_core::subscription::Start;
use futures::FutureExt;
use futures::future::{BoxFuture, Either, select};
use tokio::sync::watch;

use crate::bus::Bus;
use crate::extract::States;
use crate::handler::{Call, Outcome, Request};
use crate::publish::Sender;
use crate::retry::{Backoff, reason};
use crate::subscribe::{IntoPatterns, SubscribeBuilder, Subscription};
use crate::telemetry::Forwarding;

/// Events on their way to the target at once, unless told otherwise.
const CONCURRENCY: usize = 256;
/// How long a delivery that the target does not take is held before others may have it.
const HOLD: Duration = Duration::from_mins(1);
/// Deaths of members, not failures of the target: as many as a policy may count.
const DEATHS: u32 = 1_000;

impl Bus {
    /// Publishes every event of these patterns on `target` too, unchanged: same id, source, time,
    /// extensions and data bytes. Await the builder to start it.
    ///
    /// ```no_run
    /// # async fn example(shop: fanfare_bus::Bus, redis: fanfare_bus::Bus) -> fanfare_core::Result<()> {
    /// shop.forward("to-redis", "**", &redis).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It is a durable subscription under this name: members share it, and what is forwarded is
    /// acknowledged here only after the target has made it durable. It is ordered:
    /// the events of one key arrive in their order. A crash in between publishes an event again, with the same id: the
    /// target answers `duplicate` within its window, and that counts as done. So two buses may
    /// forward to each other: what comes back is known there and goes no further.
    pub fn forward(
        &self,
        name: &str,
        patterns: impl IntoPatterns,
        target: &Self,
    ) -> ForwardBuilder {
        let subscribe = self
            .subscribe(name, patterns)
            .start(Start::Earliest)
            .ordered()
            .concurrency(CONCURRENCY)
            .retry(RetryPolicy::exponential(DEATHS));
        ForwardBuilder {
            subscribe,
            from: self.clone(),
            target: Arc::clone(&target.0.sender),
            filter: None,
            heard: None,
        }
    }
}

type Filter = Box<dyn Fn(&Event) -> bool + Send + Sync>;
type Heard = Box<dyn Fn(&Event, Published) + Send + Sync>;

/// Collects the options of a forwarding; awaiting it starts it.
pub struct ForwardBuilder {
    subscribe: SubscribeBuilder,
    from: Bus,
    target: Arc<Sender>,
    filter: Option<Filter>,
    heard: Option<Heard>,
}

impl ForwardBuilder {
    /// Where it begins when it is created. Default: with the oldest event kept.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.subscribe = self.subscribe.start(start);
        self
    }

    /// The most events on their way to the target at once, each of another key; the target stores
    /// together what arrives together. Default 256.
    #[must_use]
    pub fn concurrency(mut self, events: usize) -> Self {
        self.subscribe = self.subscribe.concurrency(events);
        self
    }

    /// The most deliveries held at once; see [`SubscribeBuilder::prefetch`].
    #[must_use]
    pub fn prefetch(mut self, deliveries: usize) -> Self {
        self.subscribe = self.subscribe.prefetch(deliveries);
        self
    }

    /// How long the events of a member that died wait for another. Default 30 s.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.subscribe = self.subscribe.lease(lease);
        self
    }

    /// Forwards only events for which `wanted` answers true; the others are acknowledged.
    #[must_use]
    pub fn filter(mut self, wanted: impl Fn(&Event) -> bool + Send + Sync + 'static) -> Self {
        self.filter = Some(Box::new(wanted));
        self
    }

    /// Tells `heard` of each event that arrived, and where it stands there: for a log of one's own. An
    /// event that arrives again is told again, as a duplicate.
    #[must_use]
    pub fn on_arrival(mut self, heard: impl Fn(&Event, Published) + Send + Sync + 'static) -> Self {
        self.heard = Some(Box::new(heard));
        self
    }

    async fn start_forwarding(self) -> Result<Subscription> {
        if Arc::ptr_eq(self.from.backend(), self.target.backend()) {
            return Err(Error::invalid("/target", "a bus cannot forward to itself"));
        }
        let name = self.subscribe.durable_name()?;
        let outlet = Outlet {
            counters: self.from.telemetry().forwarding(&name),
            target: self.target,
            filter: self.filter,
            heard: self.heard,
            reachable: watch::Sender::new(true),
        };
        self.subscribe
            .call(Arc::new(Forwarder(Arc::new(outlet))))
            .await
    }
}

impl IntoFuture for ForwardBuilder {
    type Output = Result<Subscription>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.start_forwarding().boxed()
    }
}

impl fmt::Debug for ForwardBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardBuilder")
            .field("subscribe", &self.subscribe)
            .field("target", self.target.backend())
            .finish_non_exhaustive()
    }
}

/// The handler. It holds the way to the target, not the target's bus: two buses that forward to
/// each other would keep each other alive.
struct Forwarder(Arc<Outlet>);

impl Call for Forwarder {
    fn call(&self, request: &Request) -> BoxFuture<'static, Outcome> {
        let (outlet, request) = (Arc::clone(&self.0), request.clone());
        async move { outlet.forward(&request).await }.boxed()
    }

    fn check(&self, _: &States) -> Result<()> {
        Ok(())
    }
}

/// The way to the target, and what is known of it.
struct Outlet {
    target: Arc<Sender>,
    filter: Option<Filter>,
    heard: Option<Heard>,
    counters: Arc<Forwarding>,
    /// Whether the last publish arrived.
    reachable: watch::Sender<bool>,
}

impl Outlet {
    async fn forward(&self, request: &Request) -> Outcome {
        let event = request.event();
        if self.filter.as_ref().is_some_and(|wanted| !wanted(event)) {
            return Outcome::Ack;
        }
        if let Err(error) = self.target.check(event) {
            return self.refused(&error);
        }
        let clock = self.target.clock();
        let until = clock.now() + HOLD;
        let mut backoff = Backoff::new(self.target.limits().reconnect_max);
        loop {
            match self.attempt(request).await {
                None => return give_back(),
                Some(Ok(published)) => return self.arrived(request, published),
                Some(Err(error)) if is_final(&error) => return self.refused(&error),
                Some(Err(error)) => self.failed(request, &error),
            }
            let pause = backoff.next();
            if clock.now() + pause >= until || !self.pause(request, pause).await {
                return give_back();
            }
        }
    }

    /// One publish; none when the subscription drains while the target is known to be away. A
    /// publish that has a chance is waited for.
    async fn attempt(&self, request: &Request) -> Option<Result<Published>> {
        let sending = self.target.send_one(request.event());
        if *self.reachable.borrow() {
            return Some(sending.await);
        }
        match select(pin!(sending), pin!(request.draining())).await {
            Either::Left((answer, _)) => Some(answer),
            Either::Right(_) => None,
        }
    }

    /// Waits so long, or until another event arrives; false when the subscription drains.
    async fn pause(&self, request: &Request, pause: Duration) -> bool {
        let mut reachable = self.reachable.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let arrives = pin!(reachable.wait_for(|reachable| *reachable));
        let waited = pin!(self.target.clock().sleep(pause));
        let draining = pin!(request.draining());
        matches!(
            select(select(arrives, waited), draining).await,
            Either::Left(_)
        )
    }

    fn arrived(&self, request: &Request, published: Published) -> Outcome {
        self.counters.forwarded.add(1);
        if published.duplicate {
            self.counters.duplicates.add(1);
        }
        if let Some(heard) = &self.heard {
            heard(request.event(), published);
        }
        let returned = self
            .reachable
            .send_if_modified(|reachable| !std::mem::replace(reachable, true));
        if returned {
            request.scope.trouble.lock().take();
            tracing::info!(subscription = %request.scope.subscription, "forwarding again");
        }
        Outcome::Ack
    }

    fn failed(&self, request: &Request, error: &Error) {
        self.counters.failures.add(1);
        let text = format!("the target does not take events: {error}");
        let first = request.scope.trouble.lock().replace(text).is_none();
        self.reachable
            .send_if_modified(|reachable| std::mem::replace(reachable, false));
        if first {
            tracing::warn!(subscription = %request.scope.subscription, %error, "cannot forward");
        }
    }

    fn refused(&self, error: &Error) -> Outcome {
        self.counters.refused.add(1);
        Outcome::Settle(Settlement::DeadLetter {
            reason: reason::REFUSED.into(),
            error: error.to_string(),
        })
    }
}

/// Whether the event itself is what the target objects to. All else may change: even a wrong
/// password is put right some day, and no event is to blame for it.
fn is_final(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Invalid | ErrorKind::TooLarge)
}

fn give_back() -> Outcome {
    Outcome::Settle(Settlement::Release)
}
