//! One delivery through its handler to an outcome: the route, the context of the event, panics and
//! the time limit. What the outcome means is `retry`'s, when it runs is `worker`'s.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use fanfare_core::clock::Clock;
use fanfare_core::delivery::{Delivery, Settlement};
use fanfare_core::timestamp::{Timestamp, duration};
use futures::future::BoxFuture;

use crate::context::Context;
use crate::handler::{Call, Outcome, Request, Scope};
use crate::options::Unhandled;
use crate::retry::reason;
use crate::router::Routes;
use crate::telemetry::{self, Consuming};

/// How the deliveries of a subscription are run.
pub(crate) struct Dispatch {
    pub(crate) routes: Routes,
    pub(crate) scope: Arc<Scope>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) unhandled: Unhandled,
    pub(crate) clock: Clock,
    pub(crate) consuming: Arc<Consuming>,
}

impl Dispatch {
    /// A delivery ready to run.
    pub(crate) fn start(&self, delivery: Delivery, started: Timestamp) -> Running {
        let stage = match self.routes.find(delivery.event.event_type()) {
            Some(call) => Stage::New(Arc::clone(call)),
            None => Stage::Unhandled,
        };
        Running {
            span: telemetry::handler_span(&self.scope.subscription, &delivery),
            request: Request {
                delivery,
                scope: Arc::clone(&self.scope),
            },
            stage,
            started,
            timer: None,
        }
    }

    /// Polls a running delivery once.
    pub(crate) fn poll(&self, running: &mut Running, cx: &mut TaskContext<'_>) -> Poll<Outcome> {
        let Running {
            request,
            stage,
            span,
            ..
        } = running;
        let context = Context::caused_by(&request.delivery.event);
        let entered = span.enter();
        let polled = context.sync_scope(|| {
            // A handler that panicked is never polled again, and its extractors cloned what they
            // took: nothing half-changed is seen by others except what handlers share themselves.
            catch_unwind(AssertUnwindSafe(|| stage.poll(request, cx)))
        });
        drop(entered);
        match polled {
            Ok(Some(Poll::Ready(outcome))) => Poll::Ready(outcome),
            Ok(Some(Poll::Pending)) => self.poll_timer(running, cx),
            Ok(None) => Poll::Ready(self.on_unhandled(running)),
            Err(panic) => {
                self.consuming.panics.add(1);
                Poll::Ready(Outcome::Fail(format!("panicked: {}", message(&*panic))))
            }
        }
    }

    /// The timer is only made for handlers that do not answer at once.
    fn poll_timer(&self, running: &mut Running, cx: &mut TaskContext<'_>) -> Poll<Outcome> {
        let Some(timeout) = self.timeout else {
            return Poll::Pending;
        };
        let timer = running.timer.get_or_insert_with(|| {
            let clock = self.clock.clone();
            let until = running.started + timeout;
            Box::pin(async move { clock.sleep_until(until).await })
        });
        timer.as_mut().poll(cx).map(|()| {
            self.consuming.timeouts.add(1);
            Outcome::Fail(format!("no answer within {}", duration::format(timeout)))
        })
    }

    fn on_unhandled(&self, running: &Running) -> Outcome {
        let event = &running.request.delivery.event;
        self.consuming.unhandled.add(1);
        tracing::warn!(
            subscription = %self.scope.subscription,
            id = %event.id(),
            r#type = %event.event_type(),
            "no route matches the event"
        );
        match self.unhandled {
            Unhandled::Ack => Outcome::Ack,
            Unhandled::DeadLetter => Outcome::Settle(Settlement::DeadLetter {
                reason: reason::UNHANDLED.into(),
                error: format!("no route matches `{}`", event.event_type()),
            }),
        }
    }
}

/// A delivery in its handler.
pub(crate) struct Running {
    pub(crate) request: Request,
    stage: Stage,
    span: tracing::Span,
    pub(crate) started: Timestamp,
    timer: Option<BoxFuture<'static, ()>>,
}

enum Stage {
    New(Arc<dyn Call>),
    Answering(BoxFuture<'static, Outcome>),
    Unhandled,
}

impl Stage {
    /// None when there is no handler.
    fn poll(&mut self, request: &Request, cx: &mut TaskContext<'_>) -> Option<Poll<Outcome>> {
        if let Self::New(call) = self {
            *self = Self::Answering(call.call(request));
        }
        match self {
            Self::Answering(future) => Some(Pin::new(future).poll(cx)),
            Self::New(_) | Self::Unhandled => None,
        }
    }
}

/// A [`Running`] with what polls it, as a future of its own.
pub(crate) struct Handling {
    pub(crate) dispatch: Arc<Dispatch>,
    /// None once it answered.
    pub(crate) running: Option<Running>,
}

impl Future for Handling {
    type Output = Option<(Running, Outcome)>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(running) = &mut this.running else {
            return Poll::Ready(None);
        };
        match this.dispatch.poll(running, cx) {
            Poll::Ready(outcome) => Poll::Ready(this.running.take().map(|r| (r, outcome))),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
