//! Publishing: one message per event, all of a call on the way at once. Callers share the connection, so
//! they share its writes and the server's answers without waiting for each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::HeaderMap;
use bytes::Bytes;
use fanfare_core::backend::Published;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::position::Position;
use fanfare_core::timestamp::Timestamp;
use futures::StreamExt as _;
use futures::stream::FuturesOrdered;
use tokio::task::coop::unconstrained;

use crate::connect::{Failed, Wire, Written};
use crate::error::Refusal;
use crate::form::Outgoing;
use crate::log::Log;
use crate::retention::Retention;

/// The most events of one call that are on the way at once.
const AT_ONCE: usize = 1_000;
/// The header that tells copies.
const MESSAGE_ID: &str = "Nats-Msg-Id";
/// The header that keeps a message out of other streams.
const STREAM: &str = "Nats-Expected-Stream";

/// The way into the log.
#[derive(Debug)]
pub(crate) struct Publisher {
    wire: Arc<Wire>,
    log: Arc<Log>,
    retention: Arc<Retention>,
    /// The highest position that was answered here.
    newest: AtomicU64,
}

impl Publisher {
    pub(crate) fn new(log: Arc<Log>, retention: Arc<Retention>) -> Self {
        Self {
            wire: log.wire.clone(),
            log,
            retention,
            newest: AtomicU64::new(0),
        }
    }

    /// Answers per event, once each is stored. They are sent in their order: each gets as far as the
    /// connection before the next one begins, which the runtime's budget must not interrupt.
    pub(crate) async fn publish(&self, events: &[Event]) -> Vec<Result<Published>> {
        let config = &self.wire.config;
        let until = config.clock.now() + config.publish_timeout;
        let mut answers = Vec::with_capacity(events.len());
        let mut publishing = FuturesOrdered::new();
        for event in events {
            if publishing.len() >= AT_ONCE {
                answers.extend(publishing.next().await);
            }
            publishing.push_back(unconstrained(self.publish_one(event, until)));
        }
        while let Some(answer) = publishing.next().await {
            answers.push(answer);
        }
        answers
    }

    async fn publish_one(&self, event: &Event, until: Timestamp) -> Result<Published> {
        let most = self.wire.most_data();
        if event.bytes().len() > most {
            let message = format!("data above {most} bytes");
            return Err(Error::new(ErrorKind::TooLarge, message));
        }
        let form = &self.wire.config.form;
        let Outgoing {
            subject,
            payload,
            id,
        } = form.write(event, &self.wire.names)?;
        let mut headers = HeaderMap::new();
        headers.insert(MESSAGE_ID, id);
        if form.is_foreign() {
            headers.insert(STREAM, self.wire.names.log());
        }
        let known = self.log.head().max(self.newest.load(Ordering::Relaxed));
        let (mut answer, mut again) = self.store(&subject, &headers, &payload, until).await;
        if let Ok(Err(refusal)) = &answer
            && refusal.is_full()
        {
            self.retention.make_room().await?;
            (answer, again) = self.store(&subject, &headers, &payload, until).await;
        }
        let written = answer
            .map_err(|failed| failed.error().during("publish"))?
            .map_err(|refusal| refusal.error().during("publish"))?;
        let position = self.wire.base() + written.seq;
        self.newest.fetch_max(position, Ordering::Relaxed);
        // Sent twice and stored since: its first copy is the one that an attempt of ours stored.
        let own = again && position > known;
        Ok(Published {
            position: Some(Position(position.into())),
            duplicate: written.duplicate && !own,
        })
    }

    /// The answer, and whether it was sent more than once.
    async fn store(
        &self,
        subject: &str,
        headers: &HeaderMap,
        payload: &Bytes,
        until: Timestamp,
    ) -> (Result<Result<Written, Refusal>, Failed>, bool) {
        // Where the line broke it is sent again: the server tells copies, so that it cannot be stored
        // twice.
        let mut again = false;
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
