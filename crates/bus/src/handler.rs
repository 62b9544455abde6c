//! What handles a delivery: any async function of extractors, and tower services around it.
//! Running it (context, panics, time) is `dispatch`'s; what its answer means is `retry`'s.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, ready};
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use fanfare_core::Result;
use fanfare_core::delivery::{Delivery, Settlement};
use fanfare_core::event::Event;
use fanfare_core::subscription::SubscriptionName;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tower::{Layer, Service, ServiceExt};

use crate::bus::{Bus, WeakBus};
use crate::extract::{FromRequest, States};
use crate::retry::reason;
use crate::worker::Stage;

/// Any error that a handler or layer may return.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What a handler answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Done.
    Ack,
    /// Failed; the retry policy decides.
    Fail(String),
    /// The handler decides.
    Settle(Settlement),
}

impl Outcome {
    /// Whether the handler did what it should.
    pub fn is_ack(&self) -> bool {
        matches!(self, Self::Ack | Self::Settle(Settlement::Ack))
    }

    /// Gives up at once: no retry, a dead letter with the reason `rejected`.
    pub fn reject(error: impl fmt::Display) -> Self {
        Self::Settle(Settlement::DeadLetter {
            reason: reason::REJECTED.into(),
            error: error.to_string(),
        })
    }
}

/// What a handler may return: nothing, a settlement, an outcome, or a result of these.
pub trait IntoOutcome {
    /// As an outcome.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Outcome::Ack
    }
}

impl IntoOutcome for Settlement {
    fn into_outcome(self) -> Outcome {
        Outcome::Settle(self)
    }
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

impl<T: IntoOutcome, E: Into<BoxError>> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(value) => value.into_outcome(),
            Err(error) => Outcome::Fail(describe(&*error.into())),
        }
    }
}

/// The error and its causes, each once.
fn describe(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// A delivery with everything that extractors can ask for. Cheap to clone.
#[derive(Clone)]
pub struct Request {
    pub(crate) delivery: Delivery,
    pub(crate) scope: Arc<Scope>,
}

/// What all deliveries of a subscription share.
pub(crate) struct Scope {
    pub(crate) subscription: SubscriptionName,
    pub(crate) states: States,
    pub(crate) bus: WeakBus,
    pub(crate) stage: watch::Receiver<Stage>,
    /// What the handler needs and cannot reach, as long as it says so.
    pub(crate) trouble: Mutex<Option<String>>,
}

impl Request {
    /// Completes when the subscription stops taking: what can be given back, should be.
    pub(crate) async fn draining(&self) {
        let mut stage = self.scope.stage.clone();
        // An error means that the subscription is gone altogether.
        let _ = stage.wait_for(|stage| *stage >= Stage::Draining).await;
    }

    /// The event.
    pub fn event(&self) -> &Event {
        &self.delivery.event
    }

    /// The delivery.
    pub fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    /// The subscription.
    pub fn subscription(&self) -> &SubscriptionName {
        &self.scope.subscription
    }

    /// The bus that delivers; none when it is being dropped.
    pub fn bus(&self) -> Option<Bus> {
        self.scope.bus.upgrade()
    }

    /// A value given with `state`.
    pub fn state<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        self.scope.states.get::<T>()
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("subscription", &self.scope.subscription)
            .field("event", &self.delivery.event)
            .field("attempt", &self.delivery.attempt)
            .finish_non_exhaustive()
    }
}

/// An async function of up to eight extractors. Implemented for every such function and closure.
pub trait Handler<Args>: Send + Sync + 'static {
    /// Starts on a request.
    fn call(&self, request: &Request) -> BoxFuture<'static, Outcome>;

    /// Whether everything that the extractors need was given.
    fn check(&self, states: &States) -> Result<()>;

    /// The function's own name; closures have none.
    fn name(&self) -> Option<&'static str> {
        let path = std::any::type_name::<Self>();
        let last = path.rsplit("::").next()?;
        let plain = last.chars().all(|c| c.is_alphanumeric() || c == '_');
        plain.then_some(last)
    }
}

macro_rules! impl_handler {
    ($($arg:ident $value:ident),*) => {
        impl<F, Fut, $($arg,)*> Handler<($($arg,)*)> for F
        where
            F: Fn($($arg,)*) -> Fut + Send + Sync + 'static,
            Fut: Future + Send + 'static,
            Fut::Output: IntoOutcome,
            $($arg: FromRequest,)*
        {
            fn call(&self, request: &Request) -> BoxFuture<'static, Outcome> {
                let _ = request;
                $(
                    let $value = match $arg::from_request(request) {
                        Ok(value) => value,
                        Err(outcome) => return Box::pin(ready(outcome)),
                    };
                )*
                let future = self($($value,)*);
                Box::pin(async move { future.await.into_outcome() })
            }

            fn check(&self, states: &States) -> Result<()> {
                let _ = states;
                $($arg::check(states)?;)*
                Ok(())
            }
        }
    };
}

impl_handler!();
impl_handler!(A a);
impl_handler!(A a, B b);
impl_handler!(A a, B b, C c);
impl_handler!(A a, B b, C c, D d);
impl_handler!(A a, B b, C c, D d, E e);
impl_handler!(A a, B b, C c, D d, E e, G g);
impl_handler!(A a, B b, C c, D d, E e, G g, H h);
impl_handler!(A a, B b, C c, D d, E e, G g, H h, I i);

/// A handler whose arguments are forgotten.
pub(crate) trait Call: Send + Sync {
    fn call(&self, request: &Request) -> BoxFuture<'static, Outcome>;
    fn check(&self, states: &States) -> Result<()>;
}

pub(crate) fn erase<Args: 'static, H: Handler<Args>>(handler: H) -> Arc<dyn Call> {
    Arc::new(Erased {
        handler,
        args: PhantomData::<fn(Args)>,
    })
}

struct Erased<H, Args> {
    handler: H,
    args: PhantomData<fn(Args)>,
}

impl<Args: 'static, H: Handler<Args>> Call for Erased<H, Args> {
    fn call(&self, request: &Request) -> BoxFuture<'static, Outcome> {
        self.handler.call(request)
    }

    fn check(&self, states: &States) -> Result<()> {
        self.handler.check(states)
    }
}

/// A handler as a tower service: what layers wrap.
#[derive(Clone)]
pub struct HandlerService(pub(crate) Arc<dyn Call>);

impl fmt::Debug for HandlerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandlerService")
    }
}

impl Service<Request> for HandlerService {
    type Response = Outcome;
    type Error = Infallible;
    type Future = futures::future::Map<
        BoxFuture<'static, Outcome>,
        fn(Outcome) -> Result<Outcome, Infallible>,
    >;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        futures::FutureExt::map(self.0.call(&request), Ok as fn(Outcome) -> _)
    }
}

/// Wraps `inner` in a tower layer.
pub(crate) fn wrap<L>(layer: &L, inner: Arc<dyn Call>) -> Arc<dyn Call>
where
    L: Layer<HandlerService>,
    L::Service: Service<Request, Response = Outcome> + Clone + Send + Sync + 'static,
    <L::Service as Service<Request>>::Future: Send + 'static,
    <L::Service as Service<Request>>::Error: Into<BoxError>,
{
    let service = layer.layer(HandlerService(Arc::clone(&inner)));
    Arc::new(Layered { service, inner })
}

struct Layered<S> {
    service: S,
    inner: Arc<dyn Call>,
}

impl<S> Call for Layered<S>
where
    S: Service<Request, Response = Outcome> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    fn call(&self, request: &Request) -> BoxFuture<'static, Outcome> {
        let answer = self.service.clone().oneshot(request.clone());
        Box::pin(async move { answer.await.into_outcome() })
    }

    fn check(&self, states: &States) -> Result<()> {
        self.inner.check(states)
    }
}
