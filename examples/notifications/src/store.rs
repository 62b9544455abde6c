//! What the handlers keep, in one SQLite file that the processes of a machine share. Each handler's
//! own statements stand with the handler.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fanfare::core::id::EventId;
use parking_lot::Mutex;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::Result;

/// How long a process waits for the transactions of the others.
const BUSY: Duration = Duration::from_secs(5);

const TABLES: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    -- The inbox: which handler is done with which event.
    CREATE TABLE IF NOT EXISTS handled (
        handler TEXT NOT NULL, event TEXT NOT NULL, PRIMARY KEY (handler, event)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS member (
        chat TEXT NOT NULL, user TEXT NOT NULL, PRIMARY KEY (chat, user)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS notification (
        number INTEGER PRIMARY KEY, event TEXT NOT NULL, recipient TEXT NOT NULL,
        type TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL, link TEXT NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS notification_recipient ON notification (recipient);
    CREATE TABLE IF NOT EXISTS chat (
        id TEXT PRIMARY KEY, title TEXT NOT NULL, messages INTEGER NOT NULL DEFAULT 0,
        status TEXT NOT NULL DEFAULT 'open', status_at INTEGER NOT NULL DEFAULT 0,
        assignee TEXT, assignee_at INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS tag (
        tag TEXT NOT NULL, chat TEXT NOT NULL, PRIMARY KEY (tag, chat)
    ) STRICT, WITHOUT ROWID;
";

/// A handle on the file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store(Arc<Mutex<Connection>>);

impl Store {
    /// Opens the file, and makes its tables where they are missing.
    pub fn open(file: &Path) -> Result<Self> {
        let db = Connection::open(file)?;
        db.busy_timeout(BUSY)?;
        db.execute_batch(TABLES)?;
        Ok(Self(Arc::new(Mutex::new(db))))
    }

    /// Runs `effect` unless `handler` is done with this event. The mark and the effect are one
    /// transaction: whatever dies, and however often the event comes, the effect is there once or
    /// not at all.
    pub fn once(
        &self,
        handler: &str,
        event: &EventId,
        effect: impl FnOnce(&Transaction<'_>) -> Result,
    ) -> Result {
        self.run(|db| {
            let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mark = "INSERT OR IGNORE INTO handled (handler, event) VALUES (?1, ?2)";
            if transaction.execute(mark, (handler, event.to_string()))? == 1 {
                effect(&transaction)?;
            }
            Ok(transaction.commit()?)
        })
    }

    /// Runs `work`, which takes a flush of the disk at most.
    pub fn run<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        tokio::task::block_in_place(|| work(&mut self.0.lock()))
    }
}
