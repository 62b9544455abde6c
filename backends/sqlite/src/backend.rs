//! The backend: opens a stream, restores its subscriptions, starts the writer, and hands every call to
//! the file that knows it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use fanfare_core::admin::Admin;
use fanfare_core::backend::{Backend, Published};
use fanfare_core::capability::{
    Capabilities, Dedup, Fencing, HistoryKind, Limits, Order, SettleFrom, Starts,
};
use fanfare_core::consumer::{Consumer, Member};
use fanfare_core::dead_letter::DeadLetters;
use fanfare_core::event::Event;
use fanfare_core::history::History;
use fanfare_core::state::State;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::{Error, ErrorKind, Result};

use crate::config::SqliteConfig;
use crate::consume::SqliteConsumer;
use crate::disk::Disk;
use crate::publish;
use crate::readers::Readers;
use crate::recovery::{self, Recovered};
use crate::retention;
use crate::running::Running;
use crate::stream::Stream;
use crate::writer::Writer;
use crate::writer::job::Queue;

/// One stream in one directory, for this process alone.
pub struct SqliteBackend {
    pub(crate) inner: Arc<Inner>,
}

/// What the backend, its consumers and its trimming share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) stream: Arc<Stream>,
    pub(crate) queue: Queue,
    pub(crate) readers: Readers,
    pub(crate) running: Running,
    pub(crate) disk: Disk,
    members: AtomicU64,
}

impl SqliteBackend {
    /// Opens or creates the stream. [`Locked`](ErrorKind::Locked) when another process has it,
    /// [`Corrupt`](ErrorKind::Corrupt) when it does not verify,
    /// [`Unsupported`](ErrorKind::Unsupported) when a newer version wrote it.
    pub async fn open(config: SqliteConfig) -> Result<Arc<Self>> {
        let opening = tokio::task::spawn_blocking(move || Self::open_here(config));
        let backend = opening
            .await
            .map_err(|e| Error::new(ErrorKind::Internal, "opening was cut off").because(e))??;
        retention::watch(&backend.inner);
        Ok(Arc::new(backend))
    }

    /// How many commits were made since the start; many calls share one.
    pub fn commits(&self) -> u64 {
        self.inner.stream.commits.load(Ordering::Relaxed)
    }

    fn open_here(config: SqliteConfig) -> Result<Self> {
        let Recovered {
            store,
            stream,
            running,
            recorded,
        } = recovery::open(config)?;
        let stream = Arc::new(stream);
        let config = &stream.config;
        let (queue, jobs) = Queue::new(config.queue_calls, config.queue_bytes);
        let readers = Readers::new(config.file("db"), config.readers);
        let disk = Disk::of(&config.dir);
        let writer = Writer::new(store, Arc::clone(&stream), recorded)?;
        std::thread::Builder::new()
            .name(format!("fanfare-{}", stream.config.stream))
            .spawn(move || writer.run(jobs))
            .map_err(|e| Error::new(ErrorKind::Storage, "no thread for the writer").because(e))?;
        Ok(Self {
            inner: Arc::new(Inner {
                stream,
                queue,
                readers,
                running,
                disk,
                members: AtomicU64::new(1),
            }),
        })
    }
}

impl Inner {
    /// A number for a new member.
    pub(crate) fn next_member(&self) -> u64 {
        self.members.fetch_add(1, Ordering::Relaxed)
    }
}

impl fmt::Debug for SqliteBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteBackend")
            .field("dir", &self.inner.stream.config.dir)
            .field("stream", &self.inner.stream.config.stream)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Backend for SqliteBackend {
    fn capabilities(&self) -> Capabilities {
        let config = &self.inner.stream.config;
        Capabilities {
            backend: "sqlite",
            power_safe: self.inner.disk.power_safe(),
            durable: true,
            at_most_once: false,
            dedup: Dedup::Retention,
            fencing: Fencing::Backend,
            start: Starts {
                earliest: true,
                time: true,
                position: true,
            },
            order: Order::Lanes,
            park: true,
            history: HistoryKind::Full,
            delay_precision_millis: 1,
            settle_from: SettleFrom::Node,
            atomic_batch: false,
            pause: true,
            seek: true,
            audit: true,
            foreign_input: false,
            shared: false,
            limits: Limits {
                data_bytes: config.data_bytes,
                batch_events: config.batch_events,
                delay_millis: 7 * 24 * 3_600 * 1_000,
            },
        }
    }

    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        publish::publish(&self.inner, events).await
    }

    async fn consume(
        &self,
        subscription: &SubscriptionName,
        member: Member,
    ) -> Result<Arc<dyn Consumer>> {
        self.inner.stream.check()?;
        let subscription = self.inner.stream.subscriptions.get(subscription)?;
        let inner = Arc::clone(&self.inner);
        Ok(Arc::new(SqliteConsumer::join(inner, subscription, &member)))
    }

    fn admin(&self) -> &dyn Admin {
        self
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        self
    }

    fn history(&self) -> Result<&dyn History> {
        Ok(self)
    }

    fn state(&self) -> &dyn State {
        self
    }

    async fn close(&self) -> Result<()> {
        for subscription in self.inner.stream.subscriptions.all() {
            let mut live = subscription.live.lock();
            for member in std::mem::take(&mut live.embedded) {
                live.cursor.release_member(member);
            }
        }
        // The last connection to close tidies up: that has to be the writer's.
        self.inner.readers.close();
        self.inner.queue.close().await;
        self.inner.running.clear();
        Ok(())
    }
}
