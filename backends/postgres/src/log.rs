//! Reading the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use fanfare_core::error::Result;
use fanfare_core::timestamp::Timestamp;
use fanfare_fleet::Slot;
use tokio::sync::{Notify, watch};

use crate::connect::Database;

/// One row of the log.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) position: i64,
    pub(crate) recorded: Timestamp,
    pub(crate) slot: Slot,
    /// About its bytes.
    pub(crate) size: usize,
}

/// The log as this process sees it.
#[derive(Debug)]
pub(crate) struct Log {
    database: Arc<Database>,
    appended: watch::Sender<u64>,
}

#[expect(clippy::unused_async, clippy::unused_self, reason = "being built")]
impl Log {
    pub(crate) async fn open(
        database: Arc<Database>,
        _closed: watch::Receiver<bool>,
    ) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            database,
            appended: watch::Sender::new(0),
        }))
    }

    /// At most `limit` rows after `position`, in order, up to the horizon.
    pub(crate) async fn after(&self, _position: i64, _limit: usize) -> Result<Vec<Arc<Row>>> {
        Ok(Vec::new())
    }

    /// At most `limit` rows before `position`, or at the end, newest first.
    pub(crate) async fn before(
        &self,
        _position: Option<i64>,
        _limit: usize,
    ) -> Result<Vec<Arc<Row>>> {
        Ok(Vec::new())
    }

    /// The rows at these positions, as far as they are still there.
    pub(crate) async fn find(&self, _positions: &[i64]) -> Result<BTreeMap<i64, Arc<Row>>> {
        Ok(BTreeMap::new())
    }

    /// Up to where every event is known here.
    pub(crate) fn horizon(&self) -> i64 {
        0
    }

    /// The horizon, once everything that was committed before this call lies below it. Behind a
    /// transaction that stays open this waits a bounded time and answers what there is.
    pub(crate) async fn caught_up(&self) -> Result<i64> {
        Ok(0)
    }

    /// Changes when the horizon moved.
    pub(crate) fn appended(&self) -> watch::Receiver<u64> {
        self.appended.subscribe()
    }

    /// Notified when a subscription may have something other than new events: by
    /// `pg_notify('ff', 'w:' || name)` of any process, or [`Log::wake`] of this one.
    pub(crate) fn woken(&self, _name: &str) -> Arc<Notify> {
        Arc::new(Notify::new())
    }

    /// Wakes who waits for this subscription in this process, or all.
    pub(crate) fn wake(&self, _name: Option<&str>) {}

    /// Why the log cannot be followed, if it cannot.
    pub(crate) fn trouble(&self) -> Option<String> {
        None
    }
}
