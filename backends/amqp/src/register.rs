//! A small document in a queue: one message, changed by taking it, writing the next and only then
//! acknowledging it, while an exclusive queue keeps everybody else out. Not for what grows.

use std::sync::Arc;
use std::time::Duration;

use fanfare_core::error::{Error, ErrorKind, Result};
use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedMutexGuard;

use crate::connect::{Line, Pen};
use crate::{error, wire};

/// How long somebody else may be at it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often one asks again.
const PAUSE: Duration = Duration::from_millis(15);
/// How long a document may take to be there again after somebody put it back: the queue hears of that
/// later than whoever is told that the lock is free.
const RETURN: Duration = Duration::from_secs(2);
/// The most bytes of a document.
const MAX_BYTES: usize = 8 << 20;

/// Keeps every other process, and every other task of ours, out.
pub(crate) struct Lock {
    ours: Arc<tokio::sync::Mutex<()>>,
    name: String,
}

/// What an exclusive stretch works with. It ends with the value; its channel gives back what it took
/// and neither wrote nor put back.
pub(crate) struct Held {
    pub(crate) channel: Pen,
    line: Arc<Line>,
    guard: Guard,
}

/// The lock itself, on a channel where nothing else happens that could close it.
struct Guard {
    line: Arc<Line>,
    channel: Pen,
    name: String,
    /// None once it is let go, or was not given.
    ours: Option<OwnedMutexGuard<()>>,
}

impl Lock {
    pub(crate) fn new(stream: &str) -> Self {
        Self {
            ours: Arc::default(),
            name: format!("{stream}.lock"),
        }
    }

    pub(crate) async fn take(&self, line: &Arc<Line>) -> Result<Held> {
        let mut ours = self.ours.clone().lock_owned().await;
        let clock = &line.config.clock;
        let until = clock.now() + PATIENCE;
        loop {
            let connection = line.get().await?;
            let channel = line.channel_of(&connection).await?;
            // Before it is asked for: who goes away while it waits may have got it.
            let mut guard = Guard {
                line: line.clone(),
                channel: channel.clone(),
                name: self.name.clone(),
                ours: Some(ours),
            };
            let options = QueueDeclareOptions {
                exclusive: true,
                ..QueueDeclareOptions::default()
            };
            let name = self.name.as_str();
            let declared = channel.queue_declare(name.into(), options, FieldTable::default());
            match line.limited(async { Ok(declared.await) }).await? {
                Ok(_) => {
                    // Over the connection that has the lock, and ends with it: nothing is written by
                    // who has lost it.
                    return Ok(Held {
                        channel: line.channel_of(&connection).await?,
                        line: line.clone(),
                        guard,
                    });
                }
                Err(error) if error::is_locked(&error) && clock.now() < until => {
                    clock.sleep(PAUSE).await;
                }
                Err(error) => return Err(error::of(error)),
            }
            ours = match guard.ours.take() {
                Some(ours) => ours,
                None => self.ours.clone().lock_owned().await,
            };
        }
    }
}

impl Held {
    /// Lets the next one in, once what was in hand is back; who waits for that does not wait long.
    pub(crate) async fn release(self) {
        let line = self.line.clone();
        let letting_go = tokio::spawn(async move {
            let closing = self.channel.close(200, "done".into());
            let _ = self.line.ask(closing).await;
            self.guard.unlock().await;
        });
        // A broker that is low on memory hears no more of a line once it was written to.
        tokio::select! {
            _ = letting_go => {}
            () = line.config.clock.sleep(RETURN) => {}
        }
    }

    pub(crate) async fn get(&self, queue: &str) -> Result<Option<BasicGetMessage>> {
        let options = BasicGetOptions::default();
        let got = self.channel.basic_get(queue.into(), options);
        self.line.ask(got).await
    }

    /// The document, and the messages it came from, still held. Every document was written once when
    /// the stream was made: one that is nowhere was thrown away, and begins anew.
    pub(crate) async fn read<T: DeserializeOwned + Default>(
        &self,
        queue: &str,
    ) -> Result<(T, Vec<u64>)> {
        let clock = &self.line.config.clock;
        let until = clock.now() + RETURN;
        loop {
            let (tags, newest) = self.newest(queue).await?;
            if let Some(bytes) = newest {
                let text = format!("{queue} holds no document");
                let corrupt = |e| Error::new(ErrorKind::Corrupt, text).because(e);
                return Ok((serde_json::from_slice(&bytes).map_err(corrupt)?, tags));
            }
            if clock.now() >= until {
                return Ok((T::default(), tags));
            }
            clock.sleep(PAUSE).await;
        }
    }

    /// Every message of a document: more than one where a writer died between its two steps.
    async fn newest(&self, queue: &str) -> Result<(Vec<u64>, Option<Vec<u8>>)> {
        let mut tags = Vec::new();
        let mut newest: (u64, Option<Vec<u8>>) = (0, None);
        while let Some(message) = self.get(queue).await? {
            let message = message.delivery;
            tags.push(message.delivery_tag);
            let version = version(&message.properties);
            if newest.1.is_none() || version >= newest.0 {
                newest = (version, Some(message.data));
            }
        }
        Ok((tags, newest.1))
    }

    /// Writes the next document, then lets the one before go.
    pub(crate) async fn write<T: Serialize>(
        &self,
        queue: &str,
        document: &T,
        version: u64,
        before: Vec<u64>,
    ) -> Result<()> {
        let internal = |e| Error::new(ErrorKind::Internal, "a document is not written").because(e);
        let bytes = serde_json::to_vec(document).map_err(internal)?;
        if bytes.len() > MAX_BYTES {
            let text = format!("all of them together are at most {MAX_BYTES} bytes");
            return Err(Error::new(ErrorKind::Full, text));
        }
        let mut headers = FieldTable::default();
        let stamp = i64::try_from(version).unwrap_or(i64::MAX);
        headers.insert("fanfare-version".into(), AMQPValue::LongLongInt(stamp));
        let properties = wire::plain().with_headers(headers);
        let written = self.line.write(&self.channel, queue, &bytes, properties);
        written.await?;
        for tag in before {
            let acked = self.channel.basic_ack(tag, BasicAckOptions::default());
            self.line.ask(acked).await?;
        }
        Ok(())
    }

    /// Puts back what was only read.
    pub(crate) async fn put_back(&self, tags: Vec<u64>) -> Result<()> {
        let options = BasicNackOptions {
            requeue: true,
            ..BasicNackOptions::default()
        };
        for tag in tags {
            let back = self.channel.basic_nack(tag, options);
            self.line.ask(back).await?;
        }
        Ok(())
    }
}

impl Guard {
    async fn unlock(mut self) {
        if let Some(ours) = self.ours.take() {
            unlock(self.line.clone(), self.channel.clone(), self.name.clone()).await;
            drop(ours);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Whoever held it was dropped on the way.
        if let Some(ours) = self.ours.take() {
            let unlocking = unlock(self.line.clone(), self.channel.clone(), self.name.clone());
            tokio::spawn(async move {
                unlocking.await;
                drop(ours);
            });
        }
    }
}

/// Where this fails the connection is gone, or given up, and the lock with it.
async fn unlock(line: Arc<Line>, channel: Pen, name: String) {
    let options = QueueDeleteOptions::default();
    let _ = line
        .ask(channel.queue_delete(name.as_str().into(), options))
        .await;
    let _ = line.ask(channel.close(200, "done".into())).await;
}

fn version(properties: &lapin::BasicProperties) -> u64 {
    match wire::find(properties, "fanfare-version") {
        Some(AMQPValue::LongLongInt(version)) => u64::try_from(*version).unwrap_or(0),
        _ => 0,
    }
}
