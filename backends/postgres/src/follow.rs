//! Following the log on one connection of its own. Every process takes what stands without a gap
//! behind what it has; only the leader looks at the locks of the sequence to know whether a gap will
//! still be filled, and writes down how far everybody may read. When it dies another one leads after
//! its lease.

use std::sync::Arc;
use std::time::Duration;

use fanfare_core::clock::Clock;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::timestamp::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

use crate::connect::Param;
use crate::horizon::Tracker;
use crate::log::{Log, PAGE};
use crate::own::Own;
use crate::row::{Row, columns, get};
use crate::{mend, migrate};

/// How long a leader leads without a word.
const LEASE: Duration = Duration::from_secs(1);
/// How often it renews that.
const RENEW: Duration = Duration::from_millis(300);
/// Between two looks at the locks.
const SCAN: Duration = Duration::from_millis(10);
/// Between two notifications of one process.
const TELL: Duration = Duration::from_millis(5);
/// Between two looks at the log: after news, and the longest.
const BUSY: Duration = Duration::from_millis(10);
const IDLE: Duration = Duration::from_millis(100);
/// The longest where others tell the news.
const LISTENING: Duration = Duration::from_millis(500);
/// Rows looked at while a transaction holds the horizon back.
const FEW: i64 = 16;
/// Between attempts to reach a server that is gone: the first pause and the longest.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long a close waits for the hand-over.
const HAND_OVER: Duration = Duration::from_secs(1);

const HEAD: &str = "SELECT h, leader IS NOT DISTINCT FROM $1 AND term = $2, until > clock_timestamp() \
                    FROM ff.horizon";
const ROWS: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM ff.log WHERE pos > $1 ORDER BY pos LIMIT $2"
);
/// A backend that still knows our word has lived since it was told: nothing crashed in between.
const LAST: &str = "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END, \
                    current_setting('fanfare.watch', true) IS NOT DISTINCT FROM $1, \
                    set_config('fanfare.watch', $1, false) FROM ff.log_pos";
const HOLDERS: &str = "SELECT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND granted \
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                       AND relation = 'ff.log_pos'::regclass AND mode = 'RowExclusiveLock'";
const LEAD: &str = "UPDATE ff.horizon SET leader = $1, term = term + 1, \
                    until = clock_timestamp() + $2 * interval '1 ms' \
                    WHERE leader IS NULL OR until <= clock_timestamp() RETURNING term, h";
/// Where no event is there to tell that all were removed, the first one read since is from now on.
const STORE: &str = "UPDATE ff.horizon SET h = greatest(h, $1), \
                     oldest = CASE WHEN oldest > trimmed THEN oldest ELSE coalesce($5, oldest) END, \
                     until = clock_timestamp() + $4 * interval '1 ms' \
                     WHERE leader = $2 AND term = $3 RETURNING 1";
const RESIGN: &str = "UPDATE ff.horizon SET leader = NULL, until = '-infinity' \
                      WHERE leader = $1 AND term = $2";
const TELL_ALL: &str = "SELECT pg_notify('ff', $1)";

/// Every statement, prepared when connecting so that several can be sent at once in order.
const STATEMENTS: [&str; 8] = [HEAD, ROWS, LAST, HOLDERS, LEAD, STORE, RESIGN, TELL_ALL];

/// The task that follows; see [`Following::ended`].
#[derive(Debug)]
pub(crate) struct Following(watch::Receiver<bool>);

impl Following {
    /// Waits until leadership is handed over, after the close.
    pub(crate) async fn ended(&self) {
        // An error means that the task is gone: it has ended too.
        let _ = self.0.clone().wait_for(|running| !running).await;
    }
}

/// Begins to follow; what makes the log unfit to be followed is an error here.
pub(crate) async fn start(log: Arc<Log>, closed: watch::Receiver<bool>) -> Result<Following> {
    let (running, following) = watch::channel(true);
    let watch = Watch::open(&log).await?;
    tokio::spawn(async move {
        follow(log, watch, closed).await;
        running.send_replace(false);
    });
    Ok(Following(following))
}

async fn follow(log: Arc<Log>, first: Watch, mut closed: watch::Receiver<bool>) {
    let clock = log.database.config.clock.clone();
    let mut pause = RECONNECT.0;
    let mut first = Some(first);
    loop {
        let mut ending = closed.clone();
        let watching = async {
            let mut watch = match first.take() {
                Some(watch) => watch,
                None => Watch::open_again(&log).await?,
            };
            pause = RECONNECT.0;
            watch.run(&mut ending).await
        };
        let error = tokio::select! {
            biased;
            ended = watching => match ended {
                Ok(()) => return,
                Err(error) => error,
            },
            () = closed_for(closed.clone(), &clock) => return,
        };
        tracing::warn!(stream = log.database.config.stream, %error, "cannot follow the log");
        *log.trouble.lock() = Some(error.to_string());
        tokio::select! {
            _ = closed.wait_for(|closed| *closed) => return,
            () = clock.sleep(pause) => {}
        }
        pause = (pause * 2).min(RECONNECT.1);
    }
}

/// Until some time after the close: what still runs then is cut off.
async fn closed_for(mut closed: watch::Receiver<bool>, clock: &Clock) {
    // An error means that the backend was dropped without a close.
    let _ = closed.wait_for(|closed| *closed).await;
    clock.sleep(HAND_OVER).await;
}

/// How this process stands to the others.
enum Role {
    /// Another one leads.
    Follower,
    Leader {
        term: i64,
        tracker: Tracker,
        /// The first event read since the horizon was stored.
        first: Option<i64>,
        /// What is stored, and when the lease was renewed.
        stored: i64,
        renewed: Timestamp,
    },
}

/// One uninterrupted watch.
struct Watch {
    log: Arc<Log>,
    own: Own,
    me: Uuid,
    /// Unlike that of any other watch.
    word: String,
    role: Role,
    /// A transaction holds the horizon back.
    blocked: bool,
    scanned: Timestamp,
    /// Others are to be told, and when they last were.
    untold: bool,
    told: Timestamp,
    pause: Duration,
}

impl Watch {
    /// A server may fall silent once it is connected, too.
    async fn open_again(log: &Arc<Log>) -> Result<Self> {
        let config = &log.database.config;
        let limit = config.connect_timeout + config.response_timeout;
        tokio::select! {
            opened = Self::open(log) => opened,
            () = config.clock.sleep(limit) => Err(silent()),
        }
    }

    async fn open(log: &Arc<Log>) -> Result<Self> {
        if migrate::up(&log.database, log.horizon()).await? {
            let stream = &log.database.config.stream;
            tracing::error!(
                stream,
                "the stream was deleted by others with all its events; made again"
            );
        }
        let heard = log.clone();
        let heard = move |payload: &str| match payload.split_once(':') {
            Some(("w", name)) => heard.wake(Some(name)),
            _ => heard.heard.notify_one(),
        };
        let own = Own::open(&log.database, &STATEMENTS, heard).await?;
        mend::check(&own).await?;
        mend::sequence(log, &own).await?;
        let me = Uuid::now_v7();
        let watch = Self {
            log: log.clone(),
            own,
            me,
            word: me.to_string(),
            role: Role::Follower,
            blocked: false,
            scanned: Timestamp::EPOCH,
            untold: false,
            told: Timestamp::EPOCH,
            pause: BUSY,
        };
        let (stored, ..) = watch.head().await?;
        log.begin_again(stored);
        *log.trouble.lock() = None;
        // Whatever happened meanwhile.
        log.wake(None);
        Ok(watch)
    }

    /// Until the close, or an error.
    async fn run(&mut self, closed: &mut watch::Receiver<bool>) -> Result<()> {
        loop {
            let limit = self.log.database.config.response_timeout;
            let clock = &self.log.database.config.clock.clone();
            let more = tokio::select! {
                biased;
                more = self.step() => more?,
                () = clock.sleep(limit) => return Err(silent()),
            };
            // An error means that the backend was dropped without a close.
            if *closed.borrow() || closed.has_changed().is_err() {
                self.resign().await;
                return Ok(());
            }
            if more {
                continue;
            }
            tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => {}
                () = self.log.published.notified() => {
                    self.untold = true;
                    self.pause = BUSY;
                }
                () = self.log.heard.notified() => self.pause = BUSY,
                () = clock.sleep(self.wait(clock.now())) => self.pause = (self.pause * 3 / 2).min(LISTENING),
            }
        }
    }

    /// How long to wait for news.
    fn wait(&self, now: Timestamp) -> Duration {
        let leads = matches!(self.role, Role::Leader { .. });
        let longest = if leads || !self.own.listens() {
            IDLE
        } else {
            LISTENING
        };
        let mut wait = self.pause.min(longest);
        if self.blocked {
            wait = SCAN;
        }
        if self.untold {
            wait = wait.min(TELL.saturating_sub(now.since(self.told)));
        }
        wait
    }

    /// One look at the log; answers whether there is more at once.
    async fn step(&mut self) -> Result<bool> {
        let cursor = self.log.horizon();
        let limit = self.limit();
        let after: [Param<'_>; 2] = [&cursor, &limit];
        let (head, rows) = futures::try_join!(self.head(), self.own.query(ROWS, &after))?;
        let (mut horizon, ours, alive) = head;
        self.lead(ours, alive).await?;
        let full = rows.len() == usize::try_from(limit).unwrap_or(PAGE);
        let mut rows = self.log.decode(&rows).await?;
        horizon = horizon.max(whole(cursor, &rows));
        let mut taken = until(&rows, horizon);
        if taken < rows.len() {
            (horizon, rows) = self.scan(cursor, horizon, rows).await?;
            taken = until(&rows, horizon);
        }
        self.blocked = taken < rows.len();
        rows.truncate(taken);
        if let (Some(oldest), Some(last)) = (rows.first(), rows.last()) {
            let (oldest, last) = (oldest.position, last.position);
            if let Role::Leader { first, .. } = &mut self.role {
                first.get_or_insert(oldest);
            }
            self.log.append(rows, last);
            self.pause = BUSY;
        }
        self.store().await?;
        Ok(full && taken > 0)
    }

    /// Stored horizon, whether we lead, and whether anybody does.
    async fn head(&self) -> Result<(i64, bool, bool)> {
        let term = match &self.role {
            Role::Leader { term, .. } => *term,
            Role::Follower => -1,
        };
        let rows = self.own.query(HEAD, &[&self.me, &term]).await?;
        let row = rows.first().ok_or_else(gone)?;
        Ok((get(row, 0)?, get(row, 1)?, get(row, 2)?))
    }

    /// Takes the lead where nobody has it, gives it up where somebody else took it.
    async fn lead(&mut self, ours: bool, alive: bool) -> Result<()> {
        if ours {
            return Ok(());
        }
        self.role = Role::Follower;
        if alive {
            return Ok(());
        }
        let lease = f64::from(u32::try_from(LEASE.as_millis()).unwrap_or(u32::MAX));
        let rows = self.own.query(LEAD, &[&self.me, &lease]).await?;
        let Some(row) = rows.first() else {
            return Ok(());
        };
        self.role = Role::Leader {
            term: get(row, 0)?,
            tracker: Tracker::new(self.log.horizon()),
            first: None,
            stored: get(row, 1)?,
            renewed: self.now(),
        };
        Ok(())
    }

    /// Looks at the locks, if we lead and may look again: how far everybody may read now, with rows
    /// read afterwards.
    async fn scan(
        &mut self,
        cursor: i64,
        horizon: i64,
        rows: Vec<Arc<Row>>,
    ) -> Result<(i64, Vec<Arc<Row>>)> {
        let (now, limit) = (self.now(), self.limit());
        let Role::Leader { tracker, .. } = &mut self.role else {
            return Ok((horizon, rows));
        };
        if now.since(self.scanned) < SCAN {
            return Ok((horizon, rows));
        }
        self.scanned = now;
        let word: [Param<'_>; 1] = [&self.word];
        let after: [Param<'_>; 2] = [&cursor, &limit];
        // One transaction keeps a pooler to one connection; each statement has its own snapshot.
        let ((), last, holders, rows, ()) = futures::try_join!(
            self.own.run("BEGIN ISOLATION LEVEL READ COMMITTED"),
            self.own.query(LAST, &word),
            self.own.query(HOLDERS, &[]),
            self.own.query(ROWS, &after),
            self.own.run("COMMIT"),
        )?;
        let last = last.first().ok_or_else(gone)?;
        if !get::<bool>(last, 1)? {
            // Another backend than before, or the first look.
            *tracker = Tracker::new(cursor);
        }
        let holders = holders.iter().map(|row| get(row, 0));
        let safe = tracker.poll(get(last, 0)?, holders.collect::<Result<_>>()?);
        let safe = safe.ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "the sequence of the log went back")
        })?;
        Ok((safe.max(horizon), self.log.decode(&rows).await?))
    }

    /// Writes the horizon down and renews the lease, and tells the other processes.
    async fn store(&mut self) -> Result<()> {
        let (now, horizon) = (self.now(), self.log.horizon());
        let may_tell = now.since(self.told) >= TELL;
        if let Role::Leader {
            term,
            first,
            stored,
            renewed,
            ..
        } = &mut self.role
        {
            self.untold |= *stored < horizon;
            let tell = self.untold && may_tell;
            if tell || now.since(*renewed) >= RENEW {
                let lease = f64::from(u32::try_from(LEASE.as_millis()).unwrap_or(u32::MAX));
                let params: [Param<'_>; 5] = [&horizon, &self.me, &*term, &lease, &*first];
                if self.own.query(STORE, &params).await?.is_empty() {
                    self.role = Role::Follower;
                    return Ok(());
                }
                (*first, *stored, *renewed) = (None, horizon, now);
            }
        }
        if self.untold && may_tell {
            (self.untold, self.told) = (false, now);
            self.own.query(TELL_ALL, &[&"h"]).await?;
        }
        Ok(())
    }

    /// Hands the lead over at once.
    async fn resign(&mut self) {
        if let Role::Leader { term, .. } = &self.role {
            let (us, free): ([Param<'_>; 2], [Param<'_>; 1]) = ([&self.me, term], [&"l"]);
            let resigned =
                futures::try_join!(self.own.query(RESIGN, &us), self.own.query(TELL_ALL, &free),);
            if let Err(error) = resigned {
                tracing::debug!(%error, "the lead ends with its lease");
            }
        }
    }

    /// Rows to read at once.
    fn limit(&self) -> i64 {
        let page = self.log.page(PAGE);
        if self.blocked { page.min(FEW) } else { page }
    }

    fn now(&self) -> Timestamp {
        self.log.database.config.clock.now()
    }
}

/// The last position up to which no number is missing after `cursor`.
fn whole(cursor: i64, rows: &[Arc<Row>]) -> i64 {
    let mut expected = cursor;
    for row in rows {
        if row.position != expected + 1 {
            break;
        }
        expected = row.position;
    }
    expected
}

/// How many of the rows lie at or below `horizon`.
fn until(rows: &[Arc<Row>], horizon: i64) -> usize {
    rows.partition_point(|row| row.position <= horizon)
}

fn gone() -> Error {
    Error::new(ErrorKind::Unavailable, "the tables of the stream are gone")
}

fn silent() -> Error {
    Error::new(ErrorKind::Unavailable, "postgres did not answer in time")
}
