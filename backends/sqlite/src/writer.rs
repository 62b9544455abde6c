//! The one writer: a thread that owns the database and commits, in one transaction, whatever gathered
//! while the last flush ran. How each kind of row is written is in the modules below.
//!
//! ```text
//! publish, settle, admin, state  ->  queue  ->  gather -> write -> COMMIT (fsync) -> answer -> checkpoint
//!                                                 ^                                              |
//!                                                 +----------------------------------------------+
//! ```
//! A full disk refuses publishers and lets the rest go on. Any other failure of a write stops the
//! stream for good: whether the kernel still has the data cannot be known, so nothing is retried.

pub(crate) mod append;
mod batch;
pub(crate) mod cursors;
pub(crate) mod job;
pub(crate) mod room;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use fanfare_core::backend::Published;
use fanfare_core::{Error, ErrorKind, Result};
use fanfare_cursor::{block_of, block_range};
use rusqlite::config::DbConfig;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, DEFAULT_NAME, TransactionBehavior};
use tokio::sync::mpsc;

use crate::census::{self, Kinds};
use crate::connect::{self, Lock, Store};
use crate::error;
use crate::names::Stored;
use crate::retention;
use crate::row::Row;
use crate::stream::{self, Stream};
use crate::subscription::{Subscription, Taken};
use crate::tail::Entry;

use batch::Batch;
use job::{Act, Job};
use room::Reserve;

/// A checkpoint runs when the write-ahead log has so many pages: more make it stall for longer, fewer
/// write pages twice.
const CHECKPOINT_PAGES: i32 = 1_000;
/// The most calls in one transaction.
const COMMIT_CALLS: usize = 4_096;

/// The writer's own state; it lives on its thread.
pub(crate) struct Writer {
    db: Connection,
    stream: Arc<Stream>,
    place: LogPlace,
    wal_pages: Arc<AtomicI32>,
    reserve: Reserve,
    failed: Option<Error>,
    /// Dropped last: the database is closed before others may open it.
    _lock: Lock,
}

/// Where the next event goes.
#[derive(Debug)]
struct LogPlace {
    next: u64,
    /// When the last event was recorded: later ones are not earlier, whatever the clock does.
    recorded: i64,
}

/// What a committed transaction did.
struct Written {
    published: Vec<Published>,
    entries: Vec<Entry>,
    added: BTreeMap<u64, Kinds>,
    names: Stored,
    head: u64,
    after: Vec<Box<dyn FnOnce() + Send>>,
}

impl Writer {
    /// Takes the database over. The log ends at `head`; its last event was recorded at `recorded`.
    pub(crate) fn new(store: Store, stream: Arc<Stream>, recorded: i64) -> Result<Self> {
        let wal_pages = Arc::new(AtomicI32::new(0));
        let seen = Arc::clone(&wal_pages);
        let mut db = store.db;
        db.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages| {
            seen.store(pages, Ordering::Relaxed);
            Ok(())
        }))
        .map_err(error::sqlite)?;
        let reserve = Reserve::new(stream.config.file("reserve"), stream.config.reserve_bytes);
        if let Err(e) = reserve.take() {
            stream.set_full(Some(error::file(e, &stream.config.dir)));
        }
        let place = LogPlace {
            next: stream.tail.head() + 1,
            recorded,
        };
        let writer = Self {
            db,
            stream,
            place,
            wal_pages,
            reserve,
            failed: None,
            _lock: store.lock,
        };
        writer.measure();
        Ok(writer)
    }

    /// Serves the queue until it is closed or everybody who could fill it is gone.
    pub(crate) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut jobs = Vec::new();
        while queue.blocking_recv_many(&mut jobs, COMMIT_CALLS) > 0 {
            let mut batch = Batch::of(jobs.drain(..));
            let close = batch.close.take();
            self.serve(batch);
            self.checkpoint_if_due();
            if let Some(done) = close {
                self.shut(queue);
                // Nobody may be waiting any more.
                let _ = done.send(());
                return;
            }
        }
        self.shut(queue);
    }

    fn serve(&mut self, mut batch: Batch) {
        if let Some(cause) = &self.failed {
            batch.refuse_all(&error::poisoned(cause));
            return;
        }
        if let Err(cause) = self.admit(&batch) {
            batch.refuse_room(&cause);
        }
        let Err(mut cause) = self.write_and_answer(&mut batch) else {
            return;
        };
        if cause.kind() == ErrorKind::Full {
            self.reserve.give_up();
            self.stream.set_full(Some(cause.duplicate()));
            tracing::warn!(
                stream = self.stream.config.stream,
                "disk full: publishers are refused"
            );
            batch.refuse_room(&cause);
            let Err(again) = self.write_and_answer(&mut batch) else {
                return;
            };
            cause = again;
            if cause.kind() == ErrorKind::Full {
                batch.refuse_all(&cause);
                return;
            }
        }
        if cause.kind() == ErrorKind::Locked {
            // Somebody else writes, against the rules: nothing of ours was begun.
            batch.refuse_all(&cause);
            return;
        }
        self.fail(&cause, batch);
    }

    /// Whether there is room for what needs it; looks again from time to time.
    fn admit(&mut self, batch: &Batch) -> Result<()> {
        if !batch.needs_room() {
            return Ok(());
        }
        if let Some(cause) = self.stream.full() {
            if !self.reserve.take_again(self.stream.config.clock.now()) {
                return Err(cause);
            }
            self.stream.set_full(None);
            tracing::info!(
                stream = self.stream.config.stream,
                "room again: publishers go on"
            );
        }
        let Some(limit) = self.stream.config.max_bytes else {
            return Ok(());
        };
        if self.used() >= limit {
            self.make_room(limit)?;
        }
        match self.used() {
            used if used >= limit => Err(stream::over_limit(used, limit)),
            _ => Ok(()),
        }
    }

    /// Trims settled blocks, however young, until the database takes less than `limit` bytes.
    fn make_room(&mut self, limit: u64) -> Result<()> {
        let stream = Arc::clone(&self.stream);
        let Ok(_turn) = stream.trimming.try_lock() else {
            // An audit needs the log as it is.
            return Ok(());
        };
        while self.used() >= limit {
            let trimmed = stream.trimmed();
            let first_block = *block_range(block_of(trimmed + 1)).end();
            let begins = Arc::clone(&stream);
            let moved = self.run_now(move |act| {
                if retention::remove_rows(act.tx, trimmed)? > 0 {
                    return Ok(true);
                }
                let mut settled = retention::settled_by_all(act.tx, &begins)?;
                if settled == begins.tail.head() {
                    // The next event goes to the next block, so that this one can go whole.
                    settled = settled.max(first_block);
                }
                retention::begin_behind(act, &begins, settled.min(first_block))
            })?;
            if !moved {
                return Ok(());
            }
            self.place.next = self.place.next.max(stream.trimmed() + 1);
            self.measure();
        }
        Ok(())
    }

    /// Runs an operation of our own in a transaction of its own.
    fn run_now<T, F>(&mut self, mut run: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&mut Act<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (operation, mut answer) = job::call(false, move |act| run(act).map(Ok));
        let mut batch = Batch::default();
        batch.operations.push(operation);
        self.write_and_answer(&mut batch)?;
        answer.try_recv().map_err(|_| error::closed())?
    }

    fn write_and_answer(&mut self, batch: &mut Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut taken = Vec::new();
        let written = write(
            &mut self.db,
            &mut self.place,
            &self.stream,
            batch,
            &mut taken,
        );
        let written = written.map_err(|e| {
            for (subscription, taken) in taken.drain(..) {
                subscription.live.lock().not_written(taken);
            }
            error::sqlite(e)
        })?;
        self.publish_commit(written, std::mem::take(batch));
        Ok(())
    }

    /// Everything is on disk: let it be seen, then answer.
    fn publish_commit(&self, written: Written, batch: Batch) {
        let stream = &self.stream;
        stream.names.stored(written.names);
        stream.census.add(written.added);
        stream.commits.fetch_add(1, Ordering::Relaxed);
        for then in written.after {
            then();
        }
        if written.head != stream.tail.head() {
            stream.tail.push(written.entries, written.head);
        }
        if stream.config.max_bytes.is_some() {
            self.measure();
        }
        let mut published = written.published.into_iter();
        for append in batch.appends {
            let answers = append.rows.as_many(&mut published);
            append.answer(Ok(answers));
        }
        for flush in batch.flushes {
            flush.answer(None);
        }
        for operation in batch.operations {
            operation.answer(None);
        }
    }

    /// A write failed. What the batch did is not known; everything after it is refused.
    fn fail(&mut self, cause: &Error, batch: Batch) {
        tracing::error!(stream = self.stream.config.stream, %cause, "a write failed: stopping");
        connect::mark_failed(&self.stream.config);
        // Closing must not copy pages of which we do not know whether they are whole.
        if let Err(e) = self
            .db
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        {
            tracing::warn!(error = %e, "the last checkpoint cannot be switched off");
        }
        self.stream.fail(cause.duplicate());
        self.failed = Some(cause.duplicate());
        batch.refuse_all(&error::unknown(cause));
    }

    /// Copies the write-ahead log into the database once it is long enough. Nobody waits for this one.
    fn checkpoint_if_due(&mut self) {
        let due = self.wal_pages.load(Ordering::Relaxed) >= CHECKPOINT_PAGES;
        if self.failed.is_some() || !due {
            return;
        }
        self.wal_pages.store(0, Ordering::Relaxed);
        match self
            .db
            .wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::PASSIVE)
        {
            Ok(_) => self.measure(),
            Err(e) => match error::sqlite(e) {
                // The pages stay in the write-ahead log; a later checkpoint copies them.
                e if matches!(e.kind(), ErrorKind::Full | ErrorKind::Locked) => {}
                e => self.fail(&e, Batch::default()),
            },
        }
    }

    fn used(&self) -> u64 {
        self.stream.bytes.load(Ordering::Relaxed)
    }

    /// Notes how many bytes the database takes.
    fn measure(&self) {
        match used_bytes(&self.db) {
            Ok(bytes) => self.stream.bytes.store(bytes, Ordering::Relaxed),
            Err(error) => tracing::warn!(%error, "the size of the database is not known"),
        }
    }

    /// Answers who is late, copies the write-ahead log, closes.
    fn shut(mut self, mut queue: mpsc::Receiver<Job>) {
        queue.close();
        let mut late = Vec::new();
        while let Ok(job) = queue.try_recv() {
            late.push(job);
        }
        let batch = Batch::of(late.into_iter());
        self.stream.close();
        if self.failed.is_none() {
            self.write_all_cursors();
            // Even if a reader is still busy, the database alone is then the whole stream.
            let mode = CheckpointMode::TRUNCATE;
            if let Err(e) = self.db.wal_checkpoint_v2(DEFAULT_NAME, mode) {
                tracing::debug!(error = %e, "the write-ahead log stays for the next start");
            }
        }
        batch.refuse_all(&error::closed());
        // The last connection copies the write-ahead log and removes it, unless a write failed.
        if let Err((_, e)) = self.db.close() {
            tracing::warn!(error = %e, "the database did not close cleanly");
        }
    }

    /// Writes frontiers that moved over events which needed no settling, so that the next start does
    /// not look at them again.
    fn write_all_cursors(&mut self) {
        let mut batch = Batch {
            unasked: self.stream.subscriptions.durable(),
            ..Batch::default()
        };
        if let Err(error) = self.write_and_answer(&mut batch) {
            tracing::warn!(%error, "cursors are not written at close; nothing settled is missing");
        }
    }
}

/// One transaction with everything in the batch. What was taken from cursors is left in `taken`, to be
/// given back if this fails.
fn write(
    db: &mut Connection,
    place: &mut LogPlace,
    stream: &Stream,
    batch: &mut Batch,
    taken: &mut Vec<(Arc<Subscription>, Taken)>,
) -> rusqlite::Result<Written> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let names = stream.names.store(&tx)?;
    let now = stream.config.clock.now();
    let recorded = now.as_micros().max(place.recorded);
    let appends = batch.appends.iter();
    let rows: Vec<&Row> = appends.flat_map(|a| a.rows.as_slice()).collect();
    let mut next = place.next;
    let published = append::append(&tx, &rows, &mut next, recorded)?;
    let (entries, added) = appended(&rows, &published, recorded);
    let head = next - 1;
    stream.census.store(&tx, &added, head)?;
    let mut act = Act {
        tx: &tx,
        head,
        now,
        after: Vec::new(),
        touched: batch.unasked.clone(),
        deleted: Vec::new(),
    };
    for operation in &mut batch.operations {
        operation.run(&mut act)?;
    }
    let Act {
        after,
        touched,
        deleted,
        ..
    } = act;
    let asked = batch.flushes.iter().map(|flush| &flush.subscription);
    for subscription in asked.chain(&touched) {
        // The second time there is nothing to take.
        let changes = subscription.live.lock().take();
        let (Some(number), Some(changes)) = (subscription.number, changes) else {
            continue;
        };
        taken.push((Arc::clone(subscription), changes));
        if let Some((_, changes)) = taken.last()
            && !deleted.contains(&number)
        {
            cursors::write(&tx, number, changes)?;
        }
    }
    tx.commit()?;
    *place = LogPlace { next, recorded };
    Ok(Written {
        published,
        entries,
        added,
        names,
        head,
        after,
    })
}

/// What of the rows is new: for the tail, and counted by block.
fn appended(
    rows: &[&Row],
    published: &[Published],
    recorded: i64,
) -> (Vec<Entry>, BTreeMap<u64, Kinds>) {
    let mut entries = Vec::with_capacity(rows.len());
    let mut added = BTreeMap::new();
    for (row, published) in rows.iter().zip(published) {
        let Some(position) = published.position.filter(|_| !published.duplicate) else {
            continue;
        };
        census::note(&mut added, position.low(), row.kind);
        entries.push(Entry {
            position: position.low(),
            recorded,
            kind: row.kind,
            event: row.event.clone(),
        });
    }
    (entries, added)
}

/// Bytes in pages that hold something.
pub(crate) fn used_bytes(db: &Connection) -> rusqlite::Result<u64> {
    let pages = |sql: &str| {
        db.prepare_cached(sql)?
            .query_row([], |row| row.get::<_, u32>(0))
    };
    let used = pages("PRAGMA page_count")?.saturating_sub(pages("PRAGMA freelist_count")?);
    Ok(u64::from(used) * 4096)
}
