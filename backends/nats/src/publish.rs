//! Publishing: one message per event, all of a call on the way at once. Callers share the connection, so
//! they share its writes and the server's answers without waiting for each other.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{ContextBuilder, PublishAckFuture, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use fanfare_core::backend::Published;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::position::Position;
use fanfare_core::timestamp::Timestamp;

use crate::connect::{Failed, Line, Wire, Written};
use crate::error::Refusal;
use crate::form::Outgoing;
use crate::log::Log;
use crate::retention::Retention;

/// The most events of one call that are on the way at once.
const AT_ONCE: usize = 1_000;
/// How long the client waits for answers that we do not wait for.
const FORGOTTEN: Duration = Duration::from_secs(1);
/// The header that tells copies.
const MESSAGE_ID: &str = "Nats-Msg-Id";
/// The header that keeps a message out of other streams.
const STREAM: &str = "Nats-Expected-Stream";

/// The way into the log.
#[derive(Debug)]
pub(crate) struct Publisher {
    wire: Arc<Wire>,
    jetstream: Context,
    log: Arc<Log>,
    retention: Arc<Retention>,
    /// The highest position that was answered here.
    newest: AtomicU64,
}

/// An event that was sent once, where there was a line.
struct Sent<'a> {
    event: &'a Event,
    subject: String,
    ack: Option<PublishAckFuture>,
    line: Line,
    /// The last position known before.
    known: u64,
}

impl Publisher {
    pub(crate) fn new(log: Arc<Log>, retention: Arc<Retention>) -> Self {
        let wire = log.wire.clone();
        let jetstream = ContextBuilder::new()
            .timeout(wire.config.publish_timeout)
            .ack_timeout(FORGOTTEN)
            .build(wire.client.clone());
        Self {
            wire,
            jetstream,
            log,
            retention,
            newest: AtomicU64::new(0),
        }
    }

    /// Answers per event, once each is stored. They are sent in their order, before the first answer.
    pub(crate) async fn publish(&self, events: &[Event]) -> Vec<Result<Published>> {
        let config = &self.wire.config;
        let until = config.clock.now() + config.publish_timeout;
        let mut answers = Vec::with_capacity(events.len());
        let mut sent = VecDeque::with_capacity(events.len().min(AT_ONCE));
        // The client waits so long for each. Only of several may one begin to wait when time is nearly up.
        let limit = (events.len() > 1).then_some(until);
        // Behind one that had no line nothing goes ahead of it.
        let mut at_once = true;
        for event in events {
            if sent.len() >= AT_ONCE
                && let Some(first) = sent.pop_front()
            {
                answers.push(self.finish(first, until, limit).await);
            }
            let next = self.send(event, at_once).await;
            at_once &= next.as_ref().map_or(true, |sent| sent.ack.is_some());
            sent.push_back(next);
        }
        for sent in sent {
            answers.push(self.finish(sent, until, limit).await);
        }
        answers
    }

    async fn send<'a>(&self, event: &'a Event, at_once: bool) -> Result<Sent<'a>> {
        let most = self.wire.most_data();
        if event.bytes().len() > most {
            let message = format!("data above {most} bytes");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let outgoing = self.wire.config.form.write(event, &self.wire.names)?;
        let known = self.log.head().max(self.newest.load(Ordering::Relaxed));
        let line = self.wire.line();
        let mut ack = None;
        if at_once && self.wire.is_connected() {
            let mut message = PublishMessage::build()
                .payload(outgoing.payload)
                .message_id(outgoing.id);
            if self.wire.config.form.is_foreign() {
                message = message.expected_stream(self.wire.names.log());
            }
            let subject = outgoing.subject.clone();
            // After an error nothing was sent.
            ack = self.jetstream.send_publish(subject, message).await.ok();
        }
        Ok(Sent {
            event,
            subject: outgoing.subject,
            ack,
            line,
            known,
        })
    }

    async fn finish(
        &self,
        sent: Result<Sent<'_>>,
        until: Timestamp,
        limit: Option<Timestamp>,
    ) -> Result<Published> {
        let mut sent = sent?;
        let again = match sent.ack.take() {
            None => false,
            Some(ack) => match self.hear(ack, &mut sent, limit).await {
                Ok(Some(written)) => return Ok(self.published(&written, sent.known, false)),
                Ok(None) => false,
                Err(Failed::Broken) => true,
                Err(failed) => return Err(failed.error().during("publish")),
            },
        };
        Box::pin(self.publish_again(&sent, again, until)).await
    }

    /// None: it is not stored.
    async fn hear(
        &self,
        ack: PublishAckFuture,
        sent: &mut Sent<'_>,
        limit: Option<Timestamp>,
    ) -> Result<Option<Written>, Failed> {
        let overdue = async {
            match limit {
                Some(limit) => self.wire.config.clock.sleep_until(limit).await,
                None => std::future::pending().await,
            }
        };
        let answer = tokio::select! {
            biased;
            answer = ack.into_future() => answer,
            failed = sent.line.fails(&sent.subject) => return Err(failed),
            () = overdue => Err(PublishErrorKind::TimedOut.into()),
        };
        match answer {
            Ok(PublishAck {
                sequence: seq,
                duplicate,
                ..
            }) => Ok(Some(Written { seq, duplicate })),
            Err(error) => match error.kind() {
                PublishErrorKind::BrokenPipe => Err(Failed::Broken),
                PublishErrorKind::TimedOut => {
                    self.wire.give_up_line().await;
                    Err(Failed::Silent)
                }
                // Refused, or nobody was there.
                _ => Ok(None),
            },
        }
    }

    fn published(&self, written: &Written, known: u64, again: bool) -> Published {
        let position = self.wire.base() + written.seq;
        self.newest.fetch_max(position, Ordering::Relaxed);
        // Sent twice and stored since: its first copy is the one that an attempt of ours stored.
        let own = again && position > known;
        Published {
            position: Some(Position(position.into())),
            duplicate: written.duplicate && !own,
        }
    }

    /// What did not go well the first time, as often as there is time, and with what the server says
    /// against it; `again`: it may be stored already.
    async fn publish_again(
        &self,
        sent: &Sent<'_>,
        again: bool,
        until: Timestamp,
    ) -> Result<Published> {
        let form = &self.wire.config.form;
        let Outgoing {
            subject,
            payload,
            id,
        } = form.write(sent.event, &self.wire.names)?;
        let mut headers = HeaderMap::new();
        headers.insert(MESSAGE_ID, id);
        if form.is_foreign() {
            headers.insert(STREAM, self.wire.names.log());
        }
        let (mut answer, mut again) = self.store(&subject, &headers, &payload, again, until).await;
        if let Ok(Err(refusal)) = &answer
            && refusal.is_full()
        {
            self.retention.make_room().await?;
            (answer, again) = self.store(&subject, &headers, &payload, again, until).await;
        }
        let written = answer
            .map_err(|failed| failed.error().during("publish"))?
            .map_err(|refusal| refusal.error().during("publish"))?;
        Ok(self.published(&written, sent.known, again))
    }

    /// The answer, and whether it was sent more than once.
    async fn store(
        &self,
        subject: &str,
        headers: &HeaderMap,
        payload: &Bytes,
        mut again: bool,
        until: Timestamp,
    ) -> (Result<Result<Written, Refusal>, Failed>, bool) {
        // Where the line broke it is sent again: the server tells copies, so that it cannot be stored
        // twice.
        loop {
            match self
                .wire
                .store(subject, Some(headers), payload, until)
                .await
            {
                Err(Failed::Broken) if self.wire.config.clock.now() < until => again = true,
                Err(Failed::NotSent(_)) if again => return (Err(Failed::Broken), again),
                answer => return (answer, again),
            }
        }
    }
}
