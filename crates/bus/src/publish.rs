//! Publishing: checked before any network, sent within a deadline, counted. What is published
//! later, in the background, is `queue`'s.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use fanfare_core::Result;
use fanfare_core::backend::{Backend, Published};
use fanfare_core::clock::Clock;
use fanfare_core::error::{Error, ErrorKind};
use fanfare_core::event::Event;
use fanfare_core::timestamp::{Timestamp, duration};
use futures::future::{Either, select};

use crate::bus::Bus;
use crate::event::IntoEvent;
use crate::options::Limits;
use crate::retry::Backoff;
use crate::telemetry::Telemetry;

impl Bus {
    /// Publishes an event. `Ok` means that it is as durable as the backend makes it; an
    /// [`Unknown`](ErrorKind::Unknown) error means that it may be, and that publishing the same
    /// event again is safe.
    pub fn publish(
        &self,
        event: impl IntoEvent,
    ) -> impl Future<Output = Result<Published>> + Send + '_ {
        let event = self.prepare(event);
        async move {
            let event = event?;
            self.0.sender.send_one(&event).await
        }
    }

    /// Publishes events together and answers for each, in order; one that is refused does not
    /// hold up the others.
    pub fn publish_all(
        &self,
        events: Vec<Event>,
    ) -> impl Future<Output = Result<Vec<Result<Published>>>> + Send + '_ {
        let prepared = self.check_batch(&events).map(|()| {
            let origin = self.origin();
            let prepare = |event: Event| {
                let event = event.into_event(&origin)?;
                self.0.sender.check(&event).map(|()| event)
            };
            events.into_iter().map(prepare).collect::<Vec<_>>()
        });
        async move { self.0.sender.send_checked(prepared?).await }
    }

    /// Completes and checks an event.
    pub(crate) fn prepare(&self, event: impl IntoEvent) -> Result<Event> {
        self.0.lifecycle.admit()?;
        let event = event.into_event(&self.origin())?;
        self.0.sender.check(&event)?;
        Ok(event)
    }

    fn check_batch(&self, events: &[Event]) -> Result<()> {
        self.0.lifecycle.admit()?;
        let limits = self.limits();
        let bytes: usize = events.iter().map(Event::size).sum();
        let too_large = |what: &str, given: usize, limit: usize| {
            let text = format!("the batch has {given} {what}, at most {limit} are allowed");
            Err(Error::new(ErrorKind::TooLarge, text).during("publish"))
        };
        if events.len() > limits.batch_events {
            too_large("events", events.len(), limits.batch_events)
        } else if bytes > limits.batch_bytes {
            too_large("bytes", bytes, limits.batch_bytes)
        } else {
            Ok(())
        }
    }
}

/// The way to the backend that the bus and its queue share.
pub(crate) struct Sender {
    backend: Arc<dyn Backend>,
    clock: Clock,
    limits: Limits,
    telemetry: Arc<Telemetry>,
    /// The smaller of our limit and the backend's, in bytes.
    data_bytes: usize,
    /// The most events in one call of the backend.
    call_events: usize,
}

impl Sender {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        clock: Clock,
        limits: Limits,
        telemetry: Arc<Telemetry>,
    ) -> Self {
        let theirs = backend.capabilities().limits;
        Self {
            data_bytes: limits.data_bytes.min(theirs.data_bytes),
            call_events: limits.batch_events.min(theirs.batch_events).max(1),
            backend,
            clock,
            limits,
            telemetry,
        }
    }

    pub(crate) fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// Refuses what is above the limits.
    pub(crate) fn check(&self, event: &Event) -> Result<()> {
        let bytes = event.bytes().len();
        if bytes <= self.data_bytes {
            return Ok(());
        }
        let text = format!(
            "the event has {bytes} bytes of data, at most {} are allowed",
            self.data_bytes
        );
        Err(Error::new(ErrorKind::TooLarge, text).during("publish"))
    }

    /// Sends one checked event.
    pub(crate) async fn send_one(&self, event: &Event) -> Result<Published> {
        let mut answers = self.send(std::slice::from_ref(event)).await?;
        answers.pop().unwrap_or_else(|| Err(short_answer()))
    }

    /// Sends those that passed their checks; answers for all, in order.
    pub(crate) async fn send_checked(
        &self,
        events: Vec<Result<Event>>,
    ) -> Result<Vec<Result<Published>>> {
        let good: Vec<Event> = events.iter().flatten().cloned().collect();
        let mut sent = Vec::with_capacity(good.len());
        for chunk in good.chunks(self.call_events) {
            match self.send(chunk).await {
                Ok(answers) => sent.extend(answers),
                // What earlier chunks were answered must not be forgotten.
                Err(error) if good.len() > chunk.len() => {
                    sent.extend(chunk.iter().map(|_| Err(error.duplicate())));
                }
                Err(error) => return Err(error),
            }
        }
        let mut sent = sent.into_iter();
        let answer = |event: Result<Event>| {
            event.and_then(|_| sent.next().unwrap_or_else(|| Err(short_answer())))
        };
        Ok(events.into_iter().map(answer).collect())
    }

    /// Sends checked events, at most as many as the backend takes at once. Waits for a backend
    /// that cannot be reached, within the publish timeout.
    pub(crate) async fn send(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        let started = self.clock.now();
        let deadline = started + self.limits.publish_timeout;
        let mut backoff = Backoff::new(self.limits.reconnect_max);
        let answers = loop {
            match self.attempt(events, deadline).await {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    let pause = backoff.next();
                    if self.clock.now() + pause >= deadline {
                        break Err(error);
                    }
                    self.clock.sleep(pause).await;
                }
                answers => break answers,
            }
        };
        let took = self.clock.now().since(started);
        self.telemetry.on_publish(events, &answers, took);
        answers
    }

    /// One call of the backend. Nothing is armed for the deadline unless the call has to wait.
    async fn attempt(
        &self,
        events: &[Event],
        deadline: Timestamp,
    ) -> Result<Vec<Result<Published>>> {
        let call = self.backend.publish(events);
        let timeout = pin!(self.clock.sleep_until(deadline));
        match select(call, timeout).await {
            Either::Left((answers, _)) => answers,
            Either::Right(((), _)) => Err(self.no_answer()),
        }
    }

    fn no_answer(&self) -> Error {
        let limit: Duration = self.limits.publish_timeout;
        let text = format!(
            "no answer within {}; publishing the same event again is safe",
            duration::format(limit)
        );
        Error::new(ErrorKind::Unknown, text).during("publish")
    }
}

fn short_answer() -> Error {
    Error::new(
        ErrorKind::Internal,
        "the backend answered for too few events",
    )
    .during("publish")
}
