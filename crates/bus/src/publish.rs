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
        let checked = self.check_batch(&events).map(|()| self.check_each(events));
        async move {
            let (good, refused) = checked?;
            let mut answers = self.0.sender.send_all(&good).await?;
            for (index, error) in refused {
                answers.insert(index.min(answers.len()), Err(error));
            }
            Ok(answers)
        }
    }

    /// The good events, and why the others are refused, by their place in the batch.
    fn check_each(&self, events: Vec<Event>) -> (Vec<Event>, Vec<(usize, Error)>) {
        let origin = self.origin();
        let mut good = Vec::with_capacity(events.len());
        let mut refused = Vec::new();
        for (index, event) in events.into_iter().enumerate() {
            let event = event.into_event(&origin);
            match event.and_then(|event| self.0.sender.check(&event).map(|()| event)) {
                Ok(event) => good.push(event),
                Err(error) => refused.push((index, error)),
            }
        }
        (good, refused)
    }

    /// The event as [`Bus::publish`] would publish it, completed and checked: for publishing it within
    /// a transaction of the backend's database.
    pub fn prepare(&self, event: impl IntoEvent) -> Result<Event> {
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
        answers.pop().unwrap_or_else(|| Err(wrong_count()))
    }

    /// Sends any number of checked events; answers in order.
    pub(crate) async fn send_all(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        if events.len() <= self.call_events {
            return self.send(events).await;
        }
        let mut sent = Vec::with_capacity(events.len());
        for chunk in events.chunks(self.call_events) {
            match self.send(chunk).await {
                Ok(answers) => sent.extend(answers),
                // What the other chunks were answered must not be forgotten.
                Err(error) => sent.extend(chunk.iter().map(|_| Err(error.duplicate()))),
            }
        }
        Ok(sent)
    }

    /// Sends checked events, at most as many as the backend takes at once. Waits for a backend
    /// that cannot be reached, within the publish timeout.
    async fn send(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
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
        match answers {
            Ok(answers) if answers.len() != events.len() => Err(wrong_count()),
            answers => answers,
        }
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

fn wrong_count() -> Error {
    let text = "the backend answered for another number of events";
    Error::new(ErrorKind::Internal, text).during("publish")
}
