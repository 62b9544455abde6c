//! What can be asked of the writer, and the bounded queue through which it is asked.

use std::fmt;
use std::sync::Arc;

use fanfare_core::backend::Published;
use fanfare_core::timestamp::Timestamp;
use fanfare_core::{Error, Result};
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::error;
use crate::few::Few;
use crate::row::Row;
use crate::subscription::Subscription;

/// One call to the writer. Each is answered after the commit that carries it.
pub(crate) enum Job {
    Append(Append),
    Flush(Flush),
    Operate(Box<dyn Operation>),
    Close(oneshot::Sender<()>),
}

/// Append these events, or find them there already.
pub(crate) struct Append {
    pub(crate) rows: Few<Row>,
    reply: oneshot::Sender<Result<Few<Published>>>,
    _room: OwnedSemaphorePermit,
}

/// Write what changed of this subscription.
pub(crate) struct Flush {
    pub(crate) subscription: Arc<Subscription>,
    reply: oneshot::Sender<Result<()>>,
}

/// Anything else that reads and writes in the next transaction.
pub(crate) trait Operation: Send {
    /// Whether it is refused while the disk is full. What frees room, or settles, is not.
    fn needs_room(&self) -> bool;

    /// Does it. An error of SQLite fails the whole transaction; one of ours is this call's answer,
    /// and then it must have written nothing. Runs again when the transaction failed.
    fn run(&mut self, act: &mut Act<'_>) -> rusqlite::Result<()>;

    /// Answers after the commit, or why there was none.
    fn answer(self: Box<Self>, failed: Option<Error>);
}

/// The transaction that an operation runs in.
pub(crate) struct Act<'a> {
    pub(crate) tx: &'a Connection,
    /// The newest position, this transaction's appends included.
    pub(crate) head: u64,
    pub(crate) now: Timestamp,
    pub(crate) after: Vec<Box<dyn FnOnce() + Send>>,
    /// Subscriptions whose changes this transaction writes as well.
    pub(crate) touched: Vec<Arc<Subscription>>,
    /// Subscriptions whose rows it removed.
    pub(crate) deleted: Vec<i64>,
}

impl Act<'_> {
    /// Runs `then` right after the commit, before anything else is answered or seen.
    pub(crate) fn after_commit(&mut self, then: impl FnOnce() + Send + 'static) {
        self.after.push(Box::new(then));
    }

    /// Writes what changed of `subscription` in this transaction.
    pub(crate) fn touch(&mut self, subscription: Arc<Subscription>) {
        self.touched.push(subscription);
    }
}

/// The way to the writer. Bounded by calls and by bytes; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    jobs: mpsc::Sender<Job>,
    room: Arc<Semaphore>,
    /// All the permits of `room`, one for each KiB.
    kib: u32,
}

impl Queue {
    /// A queue of at most `calls` calls with at most `bytes` bytes of events.
    pub(crate) fn new(calls: usize, bytes: usize) -> (Self, mpsc::Receiver<Job>) {
        let (jobs, receiver) = mpsc::channel(calls);
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX).max(1);
        let room = Arc::new(Semaphore::new(kib as usize));
        (Self { jobs, room, kib }, receiver)
    }

    /// Appends events; answers in order.
    pub(crate) async fn append(&self, rows: Few<Row>) -> Result<Few<Published>> {
        let bytes: usize = rows.as_slice().iter().map(|row| row.event.size()).sum();
        let kib = u32::try_from(bytes / 1024 + 1)
            .unwrap_or(u32::MAX)
            .min(self.kib);
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await;
        let (reply, answer) = oneshot::channel();
        let append = Append {
            rows,
            reply,
            _room: room.map_err(|_| error::closed())?,
        };
        self.send(Job::Append(append)).await?;
        answer.await.map_err(|_| died())?
    }

    /// Writes what changed of a subscription.
    pub(crate) async fn flush(&self, subscription: Arc<Subscription>) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Job::Flush(Flush {
            subscription,
            reply,
        }))
        .await?;
        answer.await.map_err(|_| died())?
    }

    /// Runs something in the next transaction; see [`Operation`].
    pub(crate) async fn operate<T, F>(&self, needs_room: bool, run: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Act<'_>) -> rusqlite::Result<Result<T>> + Send + 'static,
    {
        let (operation, answer) = call(needs_room, run);
        self.send(Job::Operate(operation)).await?;
        answer.await.map_err(|_| died())?
    }

    /// Commits what is queued and closes the database; fine if that is done.
    pub(crate) async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.jobs.send(Job::Close(reply)).await.is_ok() {
            // An error means that the writer is gone, which is what was asked for.
            let _ = answer.await;
        }
        self.room.close();
    }

    async fn send(&self, job: Job) -> Result<()> {
        self.jobs.send(job).await.map_err(|_| error::closed())
    }
}

impl Append {
    pub(crate) fn answer(self, result: Result<Few<Published>>) {
        // Whoever asked may be gone; the events are stored all the same.
        let _ = self.reply.send(result);
    }
}

impl Flush {
    pub(crate) fn answer(self, failed: Option<Error>) {
        let _ = self.reply.send(failed.map_or(Ok(()), Err));
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Append(_) => "Append",
            Self::Flush(_) => "Flush",
            Self::Operate(_) => "Operate",
            Self::Close(_) => "Close",
        })
    }
}

/// An operation and where its answer comes.
pub(crate) fn call<T, F>(
    needs_room: bool,
    run: F,
) -> (Box<dyn Operation>, oneshot::Receiver<Result<T>>)
where
    T: Send + 'static,
    F: FnMut(&mut Act<'_>) -> rusqlite::Result<Result<T>> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let call = Call {
        run,
        result: None,
        reply,
        needs_room,
    };
    (Box::new(call), answer)
}

struct Call<T, F> {
    run: F,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
    needs_room: bool,
}

impl<T, F> Operation for Call<T, F>
where
    T: Send,
    F: FnMut(&mut Act<'_>) -> rusqlite::Result<Result<T>> + Send,
{
    fn needs_room(&self) -> bool {
        self.needs_room
    }

    fn run(&mut self, act: &mut Act<'_>) -> rusqlite::Result<()> {
        self.result = Some((self.run)(act)?);
        Ok(())
    }

    fn answer(self: Box<Self>, failed: Option<Error>) {
        let result = match (failed, self.result) {
            (Some(failed), _) => Err(failed),
            (None, Some(result)) => result,
            (None, None) => Err(died()),
        };
        let _ = self.reply.send(result);
    }
}

/// The writer ended without an answer.
fn died() -> Error {
    error::unknown(&Error::new(
        fanfare_core::ErrorKind::Internal,
        "the writer ended",
    ))
}
