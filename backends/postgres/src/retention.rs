//! Keeping house: partitions ahead of the log, buckets of ids in turn, and the removal of events that
//! every subscription has settled, after their time or earlier where the stream is bounded and full.
//! What is removed is counted first, so that the books still balance.

use std::sync::Arc;
use std::time::Duration;

use fanfare_core::clock::Clock;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::timestamp::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::connect::Database;
use crate::row::get;

/// How often partitions are made ahead.
const AHEAD: Duration = Duration::from_secs(10);
/// How often old events are looked for.
const EVERY: Duration = Duration::from_mins(1);
/// How long an ephemeral subscription may be silent before it is removed.
const SILENT: Duration = Duration::from_mins(1);
/// Events removed in one step, where no whole partition is.
const STEP: i32 = 10_000;
/// Steps of one round: others want their turn.
const STEPS: usize = 1_000;
/// Steps in which the buckets of ids change places.
const TURNS: usize = 4;
/// What a full stream is brought down to, in percent of its bound.
const ROOM: u64 = 75;
/// How long the bytes that others add may stay unknown.
const STALE: Duration = Duration::from_secs(10);

/// What the stream holds, as far as known here.
#[derive(Debug, Default)]
struct Held {
    bytes: u64,
    known: Option<Timestamp>,
}

#[derive(Debug)]
pub(crate) struct Retention {
    database: Arc<Database>,
    held: Mutex<Held>,
}

impl Retention {
    /// Keeps house until the close.
    pub(crate) fn start(database: Arc<Database>, closed: watch::Receiver<bool>) -> Arc<Self> {
        let retention = Arc::new(Self {
            database,
            held: Mutex::default(),
        });
        tokio::spawn(run(retention.clone(), closed));
        retention
    }

    /// Takes room for so many bytes, where the stream is bounded; removes settled events, whatever
    /// their age, where there is none.
    pub(crate) async fn take(&self, bytes: u64) -> Result<()> {
        let most = self.database.config.max_bytes;
        if most == 0 {
            return Ok(());
        }
        if self.held(false).await? + bytes > most && self.held(true).await? + bytes > most {
            let goal = most / 100 * ROOM;
            let excess = self.held(true).await?.saturating_sub(goal).max(bytes);
            self.trim(i64::MAX, excess).await?;
            if self.held(true).await? + bytes > most {
                let message = "the stream is full of unsettled events";
                return Err(Error::new(ErrorKind::Full, message));
            }
        }
        self.held.lock().bytes += bytes;
        Ok(())
    }

    /// The bytes of the stream, counted anew where they may have changed.
    async fn held(&self, anew: bool) -> Result<u64> {
        let now = self.clock().now();
        {
            let held = self.held.lock();
            if !anew && held.known.is_some_and(|known| now.since(known) < STALE) {
                return Ok(held.bytes);
            }
        }
        let rows = self
            .database
            .read("SELECT bytes FROM ff.volume()", &[])
            .await?;
        let bytes: i64 = rows.first().map_or(Ok(0), |row| get(row, 0))?;
        let bytes = u64::try_from(bytes).unwrap_or(0);
        *self.held.lock() = Held {
            bytes,
            known: Some(now),
        };
        Ok(bytes)
    }

    async fn keep(&self) -> Result<()> {
        let silent = i64::try_from(SILENT.as_micros()).unwrap_or(i64::MAX);
        let forget = "SELECT ff.remove(name, $1) FROM ff.subscription WHERE ephemeral";
        self.database.read(forget, &[&silent]).await?;
        let window = self.database.config.dedup_window.as_secs_f64();
        for _ in 0..TURNS {
            let turn = "SELECT ff.rotate($1 * interval '1 s')";
            let rows = self.database.read(turn, &[&window]).await?;
            if !rows.first().map_or(Ok(false), |row| get(row, 0))? {
                break;
            }
        }
        self.database.read("SELECT ff.seal()", &[]).await?;
        let kept = self.database.config.retention.as_secs_f64();
        let old = "SELECT ff.before(clock_timestamp() - $1 * interval '1 s')";
        let old = self.database.read(old, &[&kept]).await?;
        self.trim(old.first().map_or(Ok(0), |row| get(row, 0))?, u64::MAX)
            .await?;
        self.database.read("SELECT ff.drop_emptied()", &[]).await?;
        Ok(())
    }

    /// Removes events at or before `until` that nobody needs, about `most` bytes of them.
    async fn trim(&self, until: i64, most: u64) -> Result<()> {
        let mut left = most;
        for _ in 0..STEPS {
            let text = "SELECT removed, more FROM ff.trim($1, $2)";
            let rows = self.database.read(text, &[&until, &STEP]).await?;
            let Some(row) = rows.first() else {
                return Ok(());
            };
            let removed: i64 = get(row, 0)?;
            left = left.saturating_sub(u64::try_from(removed).unwrap_or(0));
            if left == 0 || !get::<bool>(row, 1)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn clock(&self) -> &Clock {
        &self.database.config.clock
    }
}

async fn run(retention: Arc<Retention>, mut closed: watch::Receiver<bool>) {
    let clock = retention.clock().clone();
    let mut kept = clock.now();
    loop {
        tokio::select! {
            _ = closed.wait_for(|closed| *closed) => return,
            () = clock.sleep(AHEAD) => {}
        }
        let stream = &retention.database.config.stream;
        if let Err(error) = retention.database.read("SELECT ff.extend_log()", &[]).await {
            tracing::warn!(stream, %error, "cannot make a partition ahead");
        }
        if clock.now().since(kept) < EVERY {
            continue;
        }
        kept = clock.now();
        if let Err(error) = retention.keep().await {
            tracing::warn!(stream, %error, "cannot keep house");
        }
    }
}
