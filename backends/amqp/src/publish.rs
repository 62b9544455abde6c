//! Publishing: all at once on one channel, and every confirmation waited for.

use std::borrow::Cow;
use std::sync::Arc;

use fanfare_core::backend::Published;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use futures::future::join_all;
use lapin::options::BasicPublishOptions;

use crate::backend::Stream;
use crate::connect::{Live, confirmed};
use crate::wire::Note;
use crate::{error, wire};

/// The most events in one publish.
pub(crate) const MAX_BATCH: usize = 10_000;

impl Stream {
    pub(crate) async fn publish(
        self: &Arc<Self>,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        self.line.check_open()?;
        if events.len() > MAX_BATCH {
            let text = format!("at most {MAX_BATCH} events in one publish");
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        let out = &self.out;
        let clock = &out.config.clock;
        let until = clock.now() + out.config.publish_timeout;
        // Who waits for a broker that is not there is the bus, which cannot know what becomes of a publish
        // that its deadline interrupts.
        if let Some(error) = out.missing() {
            if !out.is_connecting() {
                let stream = self.clone();
                tokio::spawn(async move { stream.out.get().await.map(drop) });
            }
            return Err(error);
        }
        let live = tokio::select! {
            live = out.get() => live?,
            () = clock.sleep_until(until) => return Err(error::silent()),
        };
        if live.blocked() {
            return Err(error::blocked(ErrorKind::Unavailable));
        }
        let unknown = |text| Err(Error::new(ErrorKind::Unknown, text));
        tokio::select! {
            answers = self.send_all(&live, events) => {
                let lost = |one: &Result<Published>| {
                    let error = one.as_ref().err();
                    error.is_some_and(|error| error.kind() == ErrorKind::Unknown)
                };
                if answers.iter().any(lost) {
                    self.mend_exchange(answers.iter().filter_map(|one| one.as_ref().err())).await;
                    out.give_up(&live);
                }
                Ok(answers)
            }
            // What was sent waits there until there is room.
            () = clock.sleep_until(until) => if live.blocked() {
                Err(error::blocked(ErrorKind::Unknown))
            } else {
                out.give_up(&live);
                unknown("no confirmation in time")
            },
            () = out.until_closed() => unknown("closed before the confirmation"),
        }
    }

    async fn send_all(&self, live: &Live, events: &[Event]) -> Vec<Result<Published>> {
        let mut sent = Vec::with_capacity(events.len());
        for event in events {
            sent.push(self.send(live, event).await);
        }
        let answers = sent.into_iter().map(|sent| async {
            let (note, confirm) = sent?;
            confirmed(confirm.await)?;
            Ok(Published {
                position: Some(note.position),
                duplicate: false,
            })
        });
        join_all(answers).await
    }

    async fn send(&self, live: &Live, event: &Event) -> Result<(Note, lapin::PublisherConfirm)> {
        let limit = self.line.config.max_data_bytes;
        if event.bytes().len() > limit {
            let text = format!("data above {limit} bytes");
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        let note = Note {
            position: self.place(),
            ..Note::default()
        };
        let options = BasicPublishOptions {
            // Who has it dropped on an exchange of somebody else's has chosen that.
            mandatory: self.line.config.exchange.is_none(),
            ..BasicPublishOptions::default()
        };
        let (properties, body) = match &self.line.config.form {
            Some(form) => (wire::beside(event, &note), Cow::Owned(form.write(event)?)),
            None => (wire::properties(event, &note), Cow::Borrowed(event.bytes())),
        };
        let key = event.event_type().as_str().into();
        let exchange = self.exchange_name().into();
        let sending = live
            .publishing
            .basic_publish(exchange, key, options, &body, properties);
        Ok((note, sending.await.map_err(error::unknown)?))
    }
}
