//! Publishing inside the caller's own transaction: the events are there if it commits, and only then.
//! Here for tokio-postgres; from SQL, or another driver, the same is `SELECT fanfare.publish(..)`.

#[cfg(feature = "sqlx")]
mod sqlx;

use fanfare_core::backend::Published;
use fanfare_core::error::Result;
use fanfare_core::event::Event;
use tokio_postgres::Transaction;

use crate::backend::PostgresBackend;
use crate::error::{map, unexpected};
use crate::publish::published;
use crate::row::get;
use crate::rows::{APPEND, Rows};

const LOCK_KEYS: &str = "SELECT ff.lock_keys($1)";

impl PostgresBackend {
    /// Publishes within a transaction of the same database, which decides with its commit whether the
    /// events exist; each at most once in a call. Publish just before the commit: readers wait behind
    /// positions that were drawn and are not committed.
    ///
    /// Events of one key are delivered in the order of their commits only where the transactions
    /// that publish them do so one after the other: by a row that they all lock before, or by
    /// [`PostgresBackend::lock_keys`].
    ///
    /// [`Full`](fanfare_core::ErrorKind::Full) where the stream has no room within its `max_bytes`; then
    /// nothing was sent, and the transaction may go on without the events.
    pub async fn publish_in(
        &self,
        transaction: &Transaction<'_>,
        events: &[Event],
    ) -> Result<Vec<Published>> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        self.take_room(events).await?;
        let rows = Rows::of(&events.iter().collect::<Vec<_>>());
        let sql = self.database.sql(APPEND);
        let answer = transaction.query_one(&*sql, &rows.params()).await;
        let row = answer.map_err(map)?;
        answered(get(&row, 0)?, get(&row, 1)?, events.len())
    }

    /// Keeps other transactions that call this with one of these keys waiting until this one ends. To
    /// be called once in a transaction, with all its keys, before its first event.
    pub async fn lock_keys(&self, transaction: &Transaction<'_>, keys: &[&str]) -> Result<()> {
        let sql = self.database.sql(LOCK_KEYS);
        let locked = transaction.query_one(&*sql, &[&keys]).await;
        locked.map(drop).map_err(map)
    }

    async fn take_room(&self, events: &[Event]) -> Result<()> {
        let bytes = events.iter().map(|event| event.size() as u64).sum();
        self.retention.take(bytes).await
    }

    /// Says that a transaction with events was committed, so that the log is looked at now and not at
    /// its next turn, up to 100 ms later.
    pub fn committed(&self) {
        self.log.published.notify_one();
    }
}

/// What [`APPEND`] answered for so many events.
fn answered(
    positions: Vec<Option<i64>>,
    duplicates: Option<Vec<bool>>,
    events: usize,
) -> Result<Vec<Published>> {
    let published = published(positions, duplicates)?;
    if published.len() == events {
        Ok(published)
    } else {
        Err(unexpected("publish"))
    }
}
