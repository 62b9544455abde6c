//! Publishing: whatever gathered while the last frames were on their way becomes the next one, so
//! that concurrent callers share round trips and the server's flushes. Sending is [`flush`]'s.

mod flush;

use std::sync::Arc;

use fanfare_core::backend::Published;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use tokio::sync::{mpsc, oneshot, watch};

use self::flush::Flusher;
use crate::connect::Wire;
use crate::frame::{self, Slot};
use crate::log::Log;
use crate::retention::Retention;

/// One event on its way into a frame.
struct Wanted {
    event: Event,
    identity: Vec<u8>,
    /// Where each event has an entry of its own.
    entry: Option<Vec<Vec<u8>>>,
    /// Whether it was published together with the one before.
    continues: bool,
    answer: oneshot::Sender<Result<Published>>,
}

/// The way into the stream.
#[derive(Debug)]
pub(crate) struct Publisher {
    queue: mpsc::Sender<Vec<Wanted>>,
    flushing: watch::Receiver<bool>,
    wire: Arc<Wire>,
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.event.fmt(f)
    }
}

impl Publisher {
    pub(crate) fn start(
        wire: Arc<Wire>,
        log: Arc<Log>,
        retention: Arc<Retention>,
        closed: watch::Receiver<bool>,
    ) -> Self {
        let (queue, wanted) = mpsc::channel(wire.config.queue.max(1));
        let flusher = Flusher {
            wire: wire.clone(),
            log,
            retention,
        };
        let (running, flushing) = watch::channel(true);
        tokio::spawn(async move {
            flusher.run(wanted, closed).await;
            running.send_replace(false);
        });
        Self {
            queue,
            flushing,
            wire,
        }
    }

    /// Waits until everything queued is flushed, after the close.
    pub(crate) async fn ended(&self) {
        // An error means that the task is gone: it has ended too.
        let _ = self.flushing.clone().wait_for(|running| !running).await;
    }

    /// Answers per event, once each is stored.
    pub(crate) async fn publish(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        let mut wanted = Vec::with_capacity(events.len());
        let mut answers = Vec::with_capacity(events.len());
        for event in events {
            answers.push(self.want(event, !wanted.is_empty()).map(|(one, answered)| {
                wanted.push(one);
                answered
            }));
        }
        if !wanted.is_empty() {
            self.queue.send(wanted).await.map_err(|_| closed())?;
        }
        let mut results = Vec::with_capacity(answers.len());
        for answer in answers {
            results.push(match answer {
                Ok(answered) => answered.await.unwrap_or_else(|_| Err(closed())),
                Err(error) => Err(error),
            });
        }
        Ok(results)
    }

    fn want(
        &self,
        event: &Event,
        continues: bool,
    ) -> Result<(Wanted, oneshot::Receiver<Result<Published>>)> {
        let config = &self.wire.config;
        let most = config.max_data_bytes;
        if event.bytes().len() > most {
            let text = format!("data above {most} bytes");
            return Err(Error::new(ErrorKind::TooLarge, text));
        }
        let entry = config.form.entry(event)?;
        let (answer, answered) = oneshot::channel();
        let wanted = Wanted {
            identity: match &entry {
                // As it will be read: a form may have no place for the source.
                Some(entry) => match config.form.read(entry).0.first() {
                    Some(Slot::Event(kept)) => frame::identity(kept),
                    _ => frame::identity(event),
                },
                None => frame::identity(event),
            },
            entry,
            event: event.clone(),
            continues,
            answer,
        };
        Ok((wanted, answered))
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the backend is closed")
}
