//! Subscribing: the builder, and the handle on what it started.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fanfare_core::Result;
use fanfare_core::admin::{SeekTo, Sought, SubscriptionInfo};
use fanfare_core::error::{Error, ErrorKind};
use fanfare_core::id::EventId;
use fanfare_core::pattern::{Pattern, PatternSet};
use fanfare_core::retry::RetryPolicy;
use fanfare_core::subscription::{OnDead, Start, SubscriptionName, SubscriptionSpec};
use futures::future::try_join_all;
use tower::{Layer, Service};

use crate::bus::Bus;
use crate::extract::States;
use crate::handler::{self, BoxError, Call, Handler, HandlerService, Outcome, Request};
use crate::lifecycle::Phase;
use crate::options::Unhandled;
use crate::router::{Router, Routes};
use crate::telemetry::SubscriptionStats;
use crate::worker::{Core, CoreOptions};

/// One pattern or several.
pub trait IntoPatterns {
    /// The set, or every violation.
    fn into_patterns(self) -> Result<PatternSet>;
}

impl IntoPatterns for &str {
    fn into_patterns(self) -> Result<PatternSet> {
        PatternSet::parse([self])
    }
}

impl IntoPatterns for String {
    fn into_patterns(self) -> Result<PatternSet> {
        PatternSet::parse([self.as_str()])
    }
}

impl IntoPatterns for &[&str] {
    fn into_patterns(self) -> Result<PatternSet> {
        PatternSet::parse(self.iter().copied())
    }
}

impl<const N: usize> IntoPatterns for [&str; N] {
    fn into_patterns(self) -> Result<PatternSet> {
        PatternSet::parse(self)
    }
}

impl IntoPatterns for Vec<String> {
    fn into_patterns(self) -> Result<PatternSet> {
        PatternSet::parse(self.iter().map(String::as_str))
    }
}

impl IntoPatterns for Pattern {
    fn into_patterns(self) -> Result<PatternSet> {
        Ok(self.into())
    }
}

impl IntoPatterns for PatternSet {
    fn into_patterns(self) -> Result<PatternSet> {
        Ok(self)
    }
}

impl Bus {
    /// A durable subscription: created if it is not there, joined if it is. `start` counts at
    /// creation only; other patterns or order than it has are a conflict.
    pub fn subscribe(&self, name: &str, patterns: impl IntoPatterns) -> SubscribeBuilder {
        SubscribeBuilder::new(self, Some(SubscriptionName::parse(name)), patterns)
    }

    /// A subscription without a name: broadcast (this process only, from now on, gone with it),
    /// or, on a bus with a group, durable as `<group>.<handler name>`.
    pub fn on(&self, patterns: impl IntoPatterns) -> SubscribeBuilder {
        SubscribeBuilder::new(self, None, patterns)
    }

    /// Ends this process's part of every subscription that was made with exactly these patterns, as
    /// [`Subscription::unsubscribe`] does for one, and answers how many there were. Subscriptions
    /// with other patterns go on, also where those match the same events.
    pub async fn unsubscribe(&self, patterns: impl IntoPatterns, grace: Duration) -> Result<usize> {
        let patterns = patterns.into_patterns()?;
        let cores = self.cores().into_iter();
        let meant = cores.filter(|core| core.spec().patterns == patterns);
        let ended = try_join_all(meant.map(|core| async {
            let bus = self.clone();
            Subscription { bus, core }.unsubscribe(grace).await
        }));
        Ok(ended.await?.len())
    }
}

type Wrap = Box<dyn Fn(Arc<dyn Call>) -> Arc<dyn Call> + Send>;

/// Collects the options of a subscription; [`SubscribeBuilder::handle`] starts it.
pub struct SubscribeBuilder {
    bus: Bus,
    name: Option<Result<SubscriptionName>>,
    handler_name: Option<String>,
    patterns: Result<PatternSet>,
    spec: SubscriptionSpec,
    options: CoreOptions,
    states: States,
    layers: Vec<Wrap>,
}

impl SubscribeBuilder {
    fn new(bus: &Bus, name: Option<Result<SubscriptionName>>, patterns: impl IntoPatterns) -> Self {
        Self {
            bus: bus.clone(),
            name,
            handler_name: None,
            patterns: patterns.into_patterns(),
            // Name and patterns are put in when it starts, together with their violations.
            spec: SubscriptionSpec::new(placeholder(), Pattern::everything().into()),
            options: CoreOptions::default(),
            states: States::default(),
            layers: Vec::new(),
        }
    }

    /// Names a handler that is a closure, for buses with a group.
    #[must_use]
    pub fn named(mut self, handler: impl Into<String>) -> Self {
        self.handler_name = Some(handler.into());
        self
    }

    /// Where it begins when it is created. Default: with the next event.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.spec.start = start;
        self
    }

    /// Events of one key one at a time, in publish order.
    #[must_use]
    pub fn ordered(mut self) -> Self {
        self.spec.ordered = true;
        self
    }

    /// What a dead letter does to the later events of its key. Default: they go on.
    #[must_use]
    pub fn on_dead(mut self, on_dead: OnDead) -> Self {
        self.spec.on_dead = on_dead;
        self
    }

    /// How long a delivery stays ours without a heartbeat. Default 30 s.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.spec.lease = lease;
        self
    }

    /// When failed deliveries come back, and how often. Default: 5 attempts, 1 s doubling to 1 min.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.spec.retry = policy;
        self
    }

    /// Whether deliveries out of attempts are kept as dead letters. Default true.
    #[must_use]
    pub fn dead_letter(mut self, keep: bool) -> Self {
        self.spec.dead_letter = keep;
        self
    }

    /// The most handlers that run at once. Default 1.
    #[must_use]
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.options.concurrency = handlers;
        self
    }

    /// How long a handler may run; then the attempt has failed. Default: as long as it likes.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// The most deliveries held at once; at most the limit of the bus, which is the default.
    #[must_use]
    pub fn prefetch(mut self, deliveries: usize) -> Self {
        self.options.prefetch = Some(deliveries);
        self
    }

    /// What becomes of events that no route matches. Default: acknowledged.
    #[must_use]
    pub fn unhandled(mut self, unhandled: Unhandled) -> Self {
        self.options.unhandled = unhandled;
        self
    }

    /// Gives handlers a value; see [`State`](crate::extract::State).
    #[must_use]
    pub fn state<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        self.states.insert(value);
        self
    }

    /// Wraps the handler in a tower layer; the last one added is the outermost. An error of the
    /// layer is a failure like the handler's own.
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<HandlerService> + Send + 'static,
        L::Service: Service<Request, Response = Outcome> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request>>::Future: Send + 'static,
        <L::Service as Service<Request>>::Error: Into<BoxError>,
    {
        self.layers
            .push(Box::new(move |call| handler::wrap(&layer, call)));
        self
    }

    /// Starts it with one handler for all events.
    pub async fn handle<Args: 'static, H: Handler<Args>>(self, handler: H) -> Result<Subscription> {
        let name = handler.name();
        self.run(Routes::always(handler::erase(handler)), name)
            .await
    }

    /// Starts it with a router.
    pub async fn router(mut self, router: Router) -> Result<Subscription> {
        self.states.extend(router.states());
        self.run(router.build()?, None).await
    }

    /// Starts it with a handler of our own.
    pub(crate) async fn call(self, call: Arc<dyn Call>) -> Result<Subscription> {
        self.run(Routes::always(call), None).await
    }

    /// The name it was given, where that is one.
    pub(crate) fn durable_name(&self) -> Result<SubscriptionName> {
        match &self.name {
            Some(Ok(name)) => Ok(name.clone()),
            Some(Err(error)) => Err(error.duplicate()),
            None => Err(Error::invalid("/name", "a name is needed")),
        }
    }

    async fn run(
        mut self,
        mut routes: Routes,
        handler: Option<&'static str>,
    ) -> Result<Subscription> {
        self.check(handler)?;
        routes.check(&self.states)?;
        for layer in &self.layers {
            routes.wrap(layer);
        }
        let backend = self.bus.backend();
        backend.admin().put(&self.spec).await?;
        let core = Core::start(&self.bus, self.spec, self.options, routes, self.states).await?;
        self.bus.0.subscriptions.lock().push(Arc::clone(&core));
        let subscription = Subscription {
            bus: self.bus,
            core,
        };
        // A shutdown that began meanwhile may not have seen it.
        if subscription.bus.0.lifecycle.phase() != Phase::Running {
            subscription.unsubscribe(Duration::ZERO).await?;
            return Err(closed());
        }
        Ok(subscription)
    }

    /// Puts name and patterns in; every violation in one error.
    fn check(&mut self, handler: Option<&'static str>) -> Result<()> {
        if self.bus.0.lifecycle.phase() != Phase::Running {
            return Err(closed());
        }
        let mut violations = Vec::new();
        let mut note = |error: &Error| match error.violations() {
            [] => violations.extend_from_slice(Error::invalid("", error.to_string()).violations()),
            some => violations.extend_from_slice(some),
        };
        match self.name(handler) {
            Ok(Some(name)) => self.spec.name = name,
            Ok(None) => {
                self.spec.name = broadcast_name()?;
                self.spec.ephemeral = true;
            }
            Err(error) => note(&error),
        }
        match &self.patterns {
            Ok(patterns) => self.spec.patterns = patterns.clone(),
            Err(error) => note(error),
        }
        if let Err(error) = self.spec.check() {
            note(&error);
        }
        if let Err(error) = self.options.check() {
            note(&error);
        }
        if violations.is_empty() {
            Ok(())
        } else {
            Err(Error::violating(violations))
        }
    }

    /// None for broadcast.
    fn name(&mut self, handler: Option<&'static str>) -> Result<Option<SubscriptionName>> {
        if let Some(name) = self.name.take() {
            return name.map(Some);
        }
        let Some(group) = &self.bus.0.group else {
            return Ok(None);
        };
        match self.handler_name.as_deref().or(handler) {
            Some(handler) => SubscriptionName::parse(&format!("{group}.{handler}")).map(Some),
            None => Err(Error::invalid(
                "/name",
                "a closure or router has no name to be durable under: give it one with `.named(..)`",
            )),
        }
    }
}

impl fmt::Debug for SubscribeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscribeBuilder")
            .field("name", &self.name)
            .field("patterns", &self.patterns)
            .finish_non_exhaustive()
    }
}

#[expect(clippy::expect_used, reason = "a constant that a test reads")]
fn placeholder() -> SubscriptionName {
    SubscriptionName::parse("unnamed").expect("a good name")
}

fn broadcast_name() -> Result<SubscriptionName> {
    SubscriptionName::parse(&format!("broadcast-{}", EventId::generate()))
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the bus is closed").during("subscribe")
}

/// A handle on a running subscription. Dropping it changes nothing: the subscription runs until
/// it is stopped or the bus shuts down.
#[derive(Clone)]
pub struct Subscription {
    bus: Bus,
    core: Arc<Core>,
}

impl Subscription {
    /// The durable name, or the name that a broadcast got.
    pub fn name(&self) -> &SubscriptionName {
        self.core.name()
    }

    /// As it was created.
    pub fn spec(&self) -> &SubscriptionSpec {
        self.core.spec()
    }

    /// This process's part in it.
    pub fn stats(&self) -> SubscriptionStats {
        self.core.stats()
    }

    /// Waits until this process's part in it is as `reached` wants it; asked anew whenever
    /// something was settled.
    pub async fn until(&self, reached: impl Fn(&SubscriptionStats) -> bool) {
        self.core.until(reached).await;
    }

    /// The whole of it, as the backend knows it.
    pub async fn info(&self) -> Result<SubscriptionInfo> {
        self.bus.backend().admin().get(self.name()).await
    }

    /// Stops handing out deliveries, to every member, durably. What runs goes on.
    pub async fn pause(&self) -> Result<()> {
        self.bus
            .backend()
            .admin()
            .set_paused(self.name(), true)
            .await
    }

    /// Hands out deliveries again.
    pub async fn resume(&self) -> Result<()> {
        self.bus
            .backend()
            .admin()
            .set_paused(self.name(), false)
            .await
    }

    /// Moves it to another place in the stream; a dry run only says what would happen.
    pub async fn seek(&self, to: &SeekTo, dry_run: bool) -> Result<Sought> {
        self.bus
            .backend()
            .admin()
            .seek(self.name(), to, dry_run)
            .await
    }

    /// Ends this process's part and removes the subscription for good; a conflict while anything
    /// is unsettled or dead, unless `force`.
    pub async fn delete(&self, grace: Duration, force: bool) -> Result<()> {
        self.unsubscribe(grace).await?;
        if self.spec().ephemeral {
            return Ok(());
        }
        self.bus.backend().admin().delete(self.name(), force).await
    }

    /// Ends this process's part: stops taking, lets running handlers finish for at most `grace`,
    /// releases the rest. A durable subscription stays and goes on collecting; see
    /// [`Admin::delete`](fanfare_core::admin::Admin::delete) for removing it. Calling it again is
    /// fine.
    pub async fn unsubscribe(&self, grace: Duration) -> Result<()> {
        let others = {
            let mut cores = self.bus.0.subscriptions.lock();
            cores.retain(|core| !Arc::ptr_eq(core, &self.core));
            cores.iter().any(|core| core.name() == self.name())
        };
        self.core.stop(self.bus.clock().now() + grace).await;
        if !others {
            self.bus.telemetry().forget(self.name());
        }
        Ok(())
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Subscription").field(self.name()).finish()
    }
}
