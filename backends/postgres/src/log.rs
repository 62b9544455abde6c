//! Reading the log up to the horizon: its newest rows are in memory, put there by the one connection
//! that follows the log; older ones are read in pages. Also who is woken by what.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_fleet::Wakes;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::connect::{Database, Param};
use crate::follow;
use crate::names::Names;
use crate::row::{self, Row, columns, get};

/// The most rows of one page.
pub(crate) const PAGE: usize = 1_000;
/// About the most bytes of one page.
const PAGE_BYTES: usize = 8 << 20;
/// How long [`Log::caught_up`] waits for the horizon.
const CATCH_UP: Duration = Duration::from_secs(3);

/// The oldest transaction that drew a position and has gone on for a while.
const STALL: &str = "SELECT l.pid, extract(epoch FROM clock_timestamp() - a.xact_start)::float8 \
     FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid \
     WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.granted \
     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
     AND l.relation = 'ff.log_pos'::regclass \
     AND coalesce(clock_timestamp() - a.xact_start, '1 hour') > interval '5 s' \
     ORDER BY a.xact_start LIMIT 1";

/// The newest rows, without one missing.
#[derive(Debug, Default)]
struct Cache {
    /// Everything after it and up to the horizon is here.
    from: i64,
    rows: VecDeque<Arc<Row>>,
    bytes: usize,
}

impl Cache {
    fn push(&mut self, row: Arc<Row>, most: usize) {
        self.bytes += row.size;
        self.rows.push_back(row);
        while self.bytes > most && self.rows.len() > 1 {
            if let Some(oldest) = self.rows.pop_front() {
                self.bytes -= oldest.size;
                self.from = oldest.position;
            }
        }
    }

    /// The place of the first row after `position`.
    fn after(&self, position: i64) -> usize {
        self.rows.partition_point(|row| row.position <= position)
    }
}

/// The log as this process sees it.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) database: Arc<Database>,
    pub(crate) names: Names,
    cache: Mutex<Cache>,
    horizon: AtomicI64,
    /// Changes when the horizon moved.
    appended: watch::Sender<u64>,
    waiting: Wakes,
    /// This process published.
    pub(crate) published: Notify,
    /// Another process has news.
    pub(crate) heard: Notify,
    /// Why the log cannot be followed, while it cannot.
    pub(crate) trouble: Mutex<Option<String>>,
    /// About the bytes of a row.
    row_bytes: AtomicUsize,
}

impl Log {
    /// Starts at the horizon as it is now; the connection that follows it lives until `closed`.
    pub(crate) async fn open(
        database: Arc<Database>,
        closed: watch::Receiver<bool>,
    ) -> Result<(Arc<Self>, follow::Following)> {
        let stored = database.read("SELECT h FROM ff.horizon", &[]).await?;
        let horizon = stored.first().map_or(Ok(0), |row| get(row, 0))?;
        let log = Arc::new(Self {
            database,
            names: Names::default(),
            cache: Mutex::new(Cache {
                from: horizon,
                ..Cache::default()
            }),
            horizon: AtomicI64::new(horizon),
            appended: watch::Sender::new(0),
            waiting: Wakes::default(),
            published: Notify::new(),
            heard: Notify::new(),
            trouble: Mutex::default(),
            row_bytes: AtomicUsize::new(1_024),
        });
        let following = follow::start(log.clone(), closed).await?;
        Ok((log, following))
    }

    /// Up to where every event is known here: nothing at or below it can still come.
    pub(crate) fn horizon(&self) -> i64 {
        self.horizon.load(Ordering::Acquire)
    }

    /// The horizon, once everything that was committed before this call lies below it. Behind a
    /// transaction that stays open it answers after a bounded wait what there is. Where that is
    /// only because nobody follows the log, it is an error: what is there would look like all.
    pub(crate) async fn caught_up(&self) -> Result<i64> {
        let newest = "SELECT coalesce(max(pos), 0) FROM ff.log";
        let newest = self.database.read(newest, &[]).await?;
        let newest: i64 = newest.first().map_or(Ok(0), |row| get(row, 0))?;
        let mut appended = self.appended();
        let clock = &self.database.config.clock;
        let until = clock.now() + CATCH_UP;
        loop {
            appended.mark_unchanged();
            let horizon = self.horizon();
            if horizon >= newest {
                return Ok(horizon);
            }
            if clock.now() >= until {
                return self.stored_horizon().await;
            }
            self.heard.notify_one();
            tokio::select! {
                _ = appended.changed() => {}
                () = clock.sleep_until(until) => {}
            }
        }
    }

    /// The horizon that whoever leads has written down.
    async fn stored_horizon(&self) -> Result<i64> {
        let stored = "SELECT h, until > clock_timestamp() FROM ff.horizon";
        let rows = self.database.read(stored, &[]).await?;
        match rows.first() {
            Some(row) if get(row, 1)? => Ok(self.horizon().max(get(row, 0)?)),
            _ => Err(Error::new(
                ErrorKind::Unavailable,
                "nobody follows the log of this stream now",
            )),
        }
    }

    /// Changes when the horizon moved.
    pub(crate) fn appended(&self) -> watch::Receiver<u64> {
        self.appended.subscribe()
    }

    /// Notified when a subscription may have something other than new events: by
    /// `pg_notify('ff', 'w:' || name)` of any process, or [`Log::wake`] of this one.
    pub(crate) fn woken(&self, name: &str) -> Arc<Notify> {
        self.waiting.of(name)
    }

    /// Wakes who waits for this subscription in this process, or all.
    pub(crate) fn wake(&self, name: Option<&str>) {
        self.waiting.wake(name);
    }

    /// Why the log cannot be followed, if it cannot.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Whose transaction holds the horizon back, if one does for longer than usual.
    pub(crate) async fn stall(&self) -> Result<Option<String>> {
        let rows = self.database.read(STALL, &[]).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let who = match get::<Option<i32>>(row, 0)? {
            Some(process) => format!("an open transaction of server process {process}"),
            None => "a prepared transaction".into(),
        };
        let seconds: Option<f64> = get(row, 1)?;
        let age = seconds.map_or_else(String::new, |age| format!(", {age:.0} s old"));
        Ok(Some(format!("later events wait behind {who}{age}")))
    }

    /// At most `limit` rows after `position`, in order, up to the horizon. There may be more when
    /// fewer come; none is the end.
    pub(crate) async fn after(&self, position: i64, limit: usize) -> Result<Vec<Arc<Row>>> {
        {
            let cache = self.cache.lock();
            if position >= cache.from {
                let rows = cache.rows.iter().skip(cache.after(position));
                return Ok(rows.take(limit).cloned().collect());
            }
        }
        let text = concat!(
            "SELECT ",
            columns!(),
            " FROM ff.log WHERE pos > $1 AND pos <= $2 ORDER BY pos LIMIT $3"
        );
        let (horizon, limit) = (self.horizon(), self.page(limit));
        let params: [Param<'_>; 3] = [&position, &horizon, &limit];
        let rows = self.database.read(text, &params).await?;
        self.decode(&rows).await
    }

    /// At most `limit` rows before `position`, or from the horizon, newest first.
    pub(crate) async fn before(
        &self,
        position: Option<i64>,
        limit: usize,
    ) -> Result<Vec<Arc<Row>>> {
        let text = concat!(
            "SELECT ",
            columns!(),
            " FROM ff.log WHERE pos <= $1 ORDER BY pos DESC LIMIT $2"
        );
        let horizon = self.horizon();
        let last = position.map_or(horizon, |position| horizon.min(position.saturating_sub(1)));
        let rows = self
            .database
            .read(text, &[&last, &self.page(limit)])
            .await?;
        self.decode(&rows).await
    }

    /// The rows at these positions, as far as they are still there.
    pub(crate) async fn find(&self, positions: &[i64]) -> Result<BTreeMap<i64, Arc<Row>>> {
        let mut found = BTreeMap::new();
        let mut missing = Vec::new();
        {
            let cache = self.cache.lock();
            for position in positions {
                let at = cache.after(position.saturating_sub(1));
                match cache.rows.get(at).filter(|row| row.position == *position) {
                    Some(row) => drop(found.insert(*position, row.clone())),
                    None => missing.push(*position),
                }
            }
        }
        let page = usize::try_from(self.page(PAGE)).unwrap_or(PAGE);
        for some in missing.chunks(page) {
            let text = concat!("SELECT ", columns!(), " FROM ff.log WHERE pos = ANY($1)");
            let rows = self.database.read(text, &[&some]).await?;
            let rows = self.decode(&rows).await?;
            found.extend(rows.into_iter().map(|row| (row.position, row)));
        }
        Ok(found)
    }

    /// So many rows that a page stays within its bytes, by what rows were lately.
    pub(crate) fn page(&self, limit: usize) -> i64 {
        let fit = PAGE_BYTES / self.row_bytes.load(Ordering::Relaxed).max(1);
        i64::try_from(limit.min(PAGE).min(fit).max(1)).unwrap_or(1)
    }

    /// Rows of a statement with [`columns`].
    pub(crate) async fn decode(&self, rows: &[tokio_postgres::Row]) -> Result<Vec<Arc<Row>>> {
        let names = self.names.of(&self.database, rows).await?;
        let read = rows.iter().map(|row| row::read(row, &names).map(Arc::new));
        let rows = read.collect::<Result<Vec<_>>>()?;
        if let Some(largest) = rows.iter().map(|row| row.size).max() {
            self.row_bytes.store(largest, Ordering::Relaxed);
        }
        Ok(rows)
    }

    /// Adds what lies between the horizon and `horizon`; only whoever follows the log does.
    pub(crate) fn append(&self, rows: Vec<Arc<Row>>, horizon: i64) {
        {
            let mut cache = self.cache.lock();
            for row in rows {
                cache.push(row, self.database.config.cache_bytes);
            }
            self.horizon.store(horizon, Ordering::Release);
        }
        self.appended.send_modify(|n| *n += 1);
    }

    /// Begins anew from a stored horizon: the past of the server may have changed.
    pub(crate) fn begin_again(&self, horizon: i64) {
        self.names.forget();
        let mut cache = self.cache.lock();
        *cache = Cache {
            from: horizon,
            ..Cache::default()
        };
        self.horizon.store(horizon, Ordering::Release);
    }
}
