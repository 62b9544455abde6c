//! Changing subscriptions: whatever gathered for one of them while its last write was on the way is
//! done in one go, on the record as it is known here, and written over exactly that record. Where
//! another process was quicker it is done again, on what that one wrote.
//!
//! ```text
//!  claim, settle, extend, ... --> queue of the book --> done on the record --> letters of the dead
//!        ^                                                                          |
//!        '--- answers <--- written, if the record is still the one it was made from -'
//! ```
//! An answer is given for what was written, or for what was read after it was asked: never for what
//! this process merely believes.

mod keeper;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use self::keeper::Keeper;
use crate::connect::Wire;
use crate::letter::Letter;
use crate::log::Log;
use crate::record::{Dead, LetterKey, Record, letter_name};

/// The most steps waiting for one subscription.
const QUEUE: usize = 1_000;

/// Where subscriptions are changed and read.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) wire: Arc<Wire>,
    pub(crate) log: Arc<Log>,
    books: Mutex<BTreeMap<SubscriptionName, Arc<Book>>>,
    writes: Arc<AtomicU64>,
}

/// One subscription as the steps see it.
#[derive(Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own"
)]
pub(crate) struct Entry {
    /// None: there is no such subscription.
    pub(crate) record: Option<Record>,
    /// It is not there because somebody deleted it, not because it is lost.
    pub(crate) deleted: bool,
    /// When the one that was here last was created, and up to where it had settled everything.
    pub(crate) remains: Option<(Timestamp, u64)>,
    /// Something else than the cursor changed.
    pub(crate) touched: bool,
    /// Other members may find something now.
    pub(crate) wake: bool,
    /// The record is about as large as it may get.
    pub(crate) full: bool,
    /// Letters whose messages are of no more use.
    pub(crate) waste: Vec<(LetterKey, Dead)>,
}

impl Entry {
    fn is_dirty(&self) -> bool {
        let cursor = self.record.as_ref().map(|record| &record.cursor);
        self.touched || cursor.is_some_and(fanfare_cursor::Cursor::is_dirty)
    }
}

/// Something to be done on a subscription, perhaps several times until it is written.
trait Step: Send {
    fn run(&mut self, entry: &mut Entry, now: Timestamp);
    /// Whether it must not answer from what this process believes.
    fn is_strict(&self) -> bool;
    fn answer(self: Box<Self>, outcome: Result<()>);
}

struct Asked<R, F> {
    run: F,
    strict: bool,
    result: Option<R>,
    answer: oneshot::Sender<Result<R>>,
}

impl<R: Send, F: FnMut(&mut Entry, Timestamp) -> R + Send> Step for Asked<R, F> {
    fn run(&mut self, entry: &mut Entry, now: Timestamp) {
        self.result = Some((self.run)(entry, now));
    }

    fn is_strict(&self) -> bool {
        self.strict
    }

    fn answer(self: Box<Self>, outcome: Result<()>) {
        let Self { result, answer, .. } = *self;
        let missing = || Error::new(ErrorKind::Internal, "a step did not run");
        // Whoever asked may be gone.
        let _ = answer.send(outcome.and_then(|()| result.ok_or_else(missing)));
    }
}

/// The way to one subscription.
#[derive(Debug)]
struct Book {
    steps: mpsc::Sender<Box<dyn Step>>,
}

impl std::fmt::Debug for dyn Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Step")
    }
}

impl Desk {
    pub(crate) fn new(wire: Arc<Wire>, log: Arc<Log>) -> Arc<Self> {
        Arc::new(Self {
            wire,
            log,
            books: Mutex::default(),
            writes: Arc::default(),
        })
    }

    /// Does `run` on the subscription, durably where it changes something.
    pub(crate) async fn change<R: Send + 'static>(
        &self,
        name: &SubscriptionName,
        run: impl FnMut(&mut Entry, Timestamp) -> R + Send + 'static,
    ) -> Result<R> {
        self.ask(name, true, run).await
    }

    /// Looks at the subscription as it is known here; it may be another by now.
    pub(crate) async fn glance<R: Send + 'static>(
        &self,
        name: &SubscriptionName,
        run: impl FnMut(&mut Entry, Timestamp) -> R + Send + 'static,
    ) -> Result<R> {
        self.ask(name, false, run).await
    }

    async fn ask<R: Send + 'static>(
        &self,
        name: &SubscriptionName,
        strict: bool,
        run: impl FnMut(&mut Entry, Timestamp) -> R + Send + 'static,
    ) -> Result<R> {
        let (answer, answered) = oneshot::channel();
        let step = Asked {
            run,
            strict,
            result: None,
            answer,
        };
        let ended = || Error::new(ErrorKind::Closed, "the backend is closed");
        let steps = self.book(name).steps.clone();
        steps.send(Box::new(step)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    fn book(&self, name: &SubscriptionName) -> Arc<Book> {
        let mut books = self.books.lock();
        if let Some(book) = books.get(name) {
            return book.clone();
        }
        let (steps, waiting) = mpsc::channel(QUEUE);
        let (wire, log) = (self.wire.clone(), self.log.clone());
        let keeper = Keeper::new(name.clone(), wire, log, self.writes.clone());
        tokio::spawn(keeper.run(waiting));
        let book = Arc::new(Book { steps });
        books.insert(name.clone(), book.clone());
        book
    }

    /// Forgets a subscription that lived in this process only.
    pub(crate) fn end(&self, name: &SubscriptionName) {
        self.books.lock().remove(name);
        self.log.wake(Some(name.as_str()));
    }

    /// Every subscription on the server, by name.
    pub(crate) async fn names(&self) -> Result<Vec<SubscriptionName>> {
        let wire = &self.wire;
        let subjects = wire.subjects(&wire.names.records()).await?;
        let names = subjects.iter().filter_map(|s| wire.names.of_record(s));
        Ok(names.collect())
    }

    /// Those that this process has looked at, ephemeral ones among them.
    pub(crate) fn known(&self) -> Vec<SubscriptionName> {
        self.books.lock().keys().cloned().collect()
    }

    /// The message of a letter.
    pub(crate) async fn letter(
        &self,
        name: &SubscriptionName,
        key: LetterKey,
        dead: Dead,
    ) -> Result<Option<(u64, Letter)>> {
        letter(&self.wire, name, key, dead).await
    }
}

async fn letter(
    wire: &Wire,
    name: &SubscriptionName,
    key: LetterKey,
    dead: Dead,
) -> Result<Option<(u64, Letter)>> {
    let subject = wire.names.letter(name, &letter_name(key, dead));
    let Some(kept) = wire.last(&subject).await? else {
        return Ok(None);
    };
    Ok(Some((kept.seq, Letter::decode(kept.data)?)))
}
