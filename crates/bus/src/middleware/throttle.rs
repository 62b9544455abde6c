//! At most so many handlers started per second, over all members that share the layer. Not a
//! limit on how many run at once: that is the subscription's concurrency.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use fanfare_core::clock::Clock;
use fanfare_core::timestamp::Timestamp;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tower::{Layer, Service};

use crate::handler::Request;

/// Starts handlers evenly spaced, no faster than a rate. A delivery that waits for its turn keeps
/// its lease and one of the subscription's slots, and its time limit runs.
#[derive(Debug, Clone)]
pub struct Throttle {
    clock: Clock,
    interval: Duration,
    /// When the next handler may start.
    next: Arc<Mutex<Timestamp>>,
}

impl Throttle {
    /// At most `rate` starts per second, at least 1. Take the clock of the bus.
    pub fn per_second(rate: u32, clock: Clock) -> Self {
        Self {
            clock,
            interval: Duration::from_secs(1) / rate.max(1),
            next: Arc::default(),
        }
    }

    /// Takes a turn: when it is.
    fn turn(&self) -> Timestamp {
        let mut next = self.next.lock();
        let turn = self.clock.now().max(*next);
        *next = turn + self.interval;
        turn
    }
}

impl<S> Layer<S> for Throttle {
    type Service = Throttled<S>;

    fn layer(&self, inner: S) -> Throttled<S> {
        Throttled {
            throttle: self.clone(),
            inner,
        }
    }
}

/// A handler behind a [`Throttle`].
#[derive(Debug, Clone)]
pub struct Throttled<S> {
    throttle: Throttle,
    inner: S,
}

impl<S> Service<Request> for Throttled<S>
where
    S: Service<Request> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let turn = self.throttle.turn();
        let clock = self.throttle.clock.clone();
        // Called only when its turn has come, because a closure may work before its first await.
        // The one that is ready is taken, and its clone left for the next call.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            clock.sleep_until(turn).await;
            inner.call(request).await
        })
    }
}
