//! Reading the log: its newest messages are in memory, put there by the one consumer that follows it
//! while anybody here waits for them; older ones are read in pages. Also who is woken by what.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::timestamp::Timestamp;
use fanfare_fleet::Wakes;
use futures::StreamExt as _;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use crate::connect::Wire;
use crate::row::Row;
use crate::streams::nanos;

/// The most messages of one page.
pub(crate) const PAGE: usize = 1_000;
/// Single messages that are asked for at once.
const AT_ONCE: usize = 32;
/// How long [`Log::caught_up`] waits for the follower.
const CATCH_UP: Duration = Duration::from_secs(3);
/// How long the server keeps a consumer that reads one page.
const READING: Duration = Duration::from_secs(10);

/// The newest rows, without one missing.
#[derive(Debug, Default)]
struct Cache {
    /// Everything after it and up to the head is here.
    from: u64,
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
    fn after(&self, position: u64) -> usize {
        self.rows.partition_point(|row| row.position <= position)
    }
}

/// The log as this process sees it.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) wire: Arc<Wire>,
    cache: Mutex<Cache>,
    head: AtomicU64,
    /// Changes when events came.
    appended: watch::Sender<u64>,
    waiting: Wakes,
    /// Nobody follows the log.
    resting: AtomicBool,
    /// Somebody waits again.
    wanted: Notify,
    /// Changes when the log is to be followed from another place.
    moved: watch::Sender<u64>,
    /// Why the log cannot be followed, while it cannot.
    pub(crate) trouble: Mutex<Option<String>>,
}

impl Log {
    /// Knows nothing behind `head` yet.
    pub(crate) fn new(wire: Arc<Wire>, head: u64) -> Arc<Self> {
        let cache = Cache {
            from: head,
            ..Cache::default()
        };
        Arc::new(Self {
            wire,
            cache: Mutex::new(cache),
            head: AtomicU64::new(head),
            appended: watch::Sender::new(0),
            waiting: Wakes::default(),
            resting: AtomicBool::new(true),
            wanted: Notify::new(),
            moved: watch::Sender::new(0),
            trouble: Mutex::default(),
        })
    }

    /// The last position known here.
    pub(crate) fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// The head, once everything that was stored before this call is known here.
    pub(crate) async fn caught_up(&self) -> Result<u64> {
        let newest = self.wire.extent().await?.last_seq;
        let clock = &self.wire.config.clock;
        let until = clock.now() + CATCH_UP;
        let mut appended = self.appended();
        loop {
            appended.mark_unchanged();
            let head = self.head();
            if head >= newest {
                return Ok(head);
            }
            if self.resting.load(Ordering::Acquire) {
                self.begin_at(newest);
                continue;
            }
            if clock.now() >= until {
                let message = "the log of this stream cannot be followed now";
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
            tokio::select! {
                _ = appended.changed() => {}
                () = clock.sleep_until(until) => {}
            }
        }
    }

    /// Changes when events came, as long as somebody holds what [`Log::woken`] gave.
    pub(crate) fn appended(&self) -> watch::Receiver<u64> {
        self.appended.subscribe()
    }

    /// Notified when a subscription may have something other than new events.
    pub(crate) fn woken(&self, name: &str) -> Arc<Notify> {
        let woken = self.waiting.of(name);
        self.wanted.notify_one();
        woken
    }

    /// Whether anybody waits for anything.
    pub(crate) fn is_followed(&self) -> bool {
        self.waiting.any()
    }

    /// Whether the log is not followed from now on. Events are not told any more, and the head stays
    /// where it is until somebody asks for it.
    pub(crate) fn rest(&self, resting: bool) {
        self.resting.store(resting, Ordering::Release);
    }

    /// Somebody waits, or did since this was last asked.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Wakes who waits for this subscription in this process, or all.
    pub(crate) fn wake(&self, name: Option<&str>) {
        self.waiting.wake(name);
    }

    /// Why the log cannot be followed, if it cannot.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// At most `limit` rows after `position`, in order, up to the head. There may be more when fewer
    /// come; none is the end.
    pub(crate) async fn after(&self, position: u64, limit: usize) -> Result<Vec<Arc<Row>>> {
        let (head, position) = {
            let cache = self.cache.lock();
            if position >= cache.from {
                let rows = cache.rows.iter().skip(cache.after(position));
                return Ok(rows.take(limit).cloned().collect());
            }
            (self.head(), position.max(self.wire.base()))
        };
        self.read(position + 1, head, limit).await
    }

    /// At most `limit` rows before `position`, or from the head, newest first; none is the end.
    pub(crate) async fn before(
        &self,
        position: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Arc<Row>>> {
        let head = self.head();
        let mut last = position.map_or(head, |position| head.min(position.saturating_sub(1)));
        let first = self.wire.extent().await?.first_seq;
        // Positions without a message are skipped.
        while last >= first && last > 0 {
            let from = last.saturating_sub(limit as u64 - 1).max(1);
            let mut rows = self.span(from, last).await?;
            if !rows.is_empty() {
                rows.reverse();
                return Ok(rows);
            }
            last = from - 1;
        }
        Ok(Vec::new())
    }

    /// Every row from `from` to `to`.
    async fn span(&self, from: u64, to: u64) -> Result<Vec<Arc<Row>>> {
        let mut rows: Vec<Arc<Row>> = Vec::new();
        let mut at = from.saturating_sub(1);
        loop {
            let more = self.after(at, PAGE).await?;
            let through = more.last().is_none_or(|row| row.position >= to);
            at = more.last().map_or(at, |row| row.position);
            rows.extend(more.into_iter().take_while(|row| row.position <= to));
            if through {
                return Ok(rows);
            }
        }
    }

    /// The rows at these positions, as far as they are still there.
    pub(crate) async fn find(&self, positions: &[u64]) -> Result<BTreeMap<u64, Arc<Row>>> {
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
        let stream = self.wire.names.log();
        let base = self.wire.base();
        // What stood in an earlier life of the log is gone.
        missing.retain(|position| *position > base);
        let asking = missing.into_iter().map(|position| {
            let stream = stream.as_str();
            async move {
                let which = json!({ "seq": position - base });
                self.wire.kept(stream, &which).await
            }
        });
        let asking: Vec<_> = asking.collect();
        let mut answers = futures::stream::iter(asking).buffered(AT_ONCE);
        while let Some(kept) = answers.next().await {
            if let Some(kept) = kept? {
                let position = base + kept.seq;
                let what = (kept.subject.as_str(), &kept.data);
                let row = Row::new(&self.wire.config.form, position, kept.time, what);
                found.insert(position, Arc::new(row));
            }
        }
        Ok(found)
    }

    /// The first row that was recorded at or after `time`.
    pub(crate) async fn since(&self, time: Timestamp) -> Result<Option<Arc<Row>>> {
        let start = json!({
            "deliver_policy": "by_start_time",
            "opt_start_time": time.to_string(),
        });
        let rows = self.page(&start, u64::MAX, 1).await?;
        // The server may know time less exactly than we do.
        Ok(rows.into_iter().find(|row| row.recorded >= time))
    }

    /// At most `limit` rows from `from` up to `to`.
    async fn read(&self, from: u64, to: u64, limit: usize) -> Result<Vec<Arc<Row>>> {
        if from > to {
            return Ok(Vec::new());
        }
        let start = json!({
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": from.saturating_sub(self.wire.base()).max(1),
        });
        self.page(&start, to, limit.min(PAGE)).await
    }

    /// At most `limit` rows up to `to`, by a consumer made for this page.
    async fn page(&self, start: &Value, to: u64, limit: usize) -> Result<Vec<Arc<Row>>> {
        let stream = self.wire.names.log();
        let mut config = json!({
            "ack_policy": "none",
            "replay_policy": "instant",
            "max_deliver": 1,
            "inactive_threshold": nanos(READING),
            "num_replicas": 1,
            "mem_storage": true,
        });
        merge(&mut config, start);
        let body = json!({ "stream_name": stream, "config": config });
        let made: Made = self
            .wire
            .call(&format!("CONSUMER.CREATE.{stream}"), &body)
            .await?;
        made.check(start)?;
        let name = made.name;
        let rows = self.pull(&stream, &name, limit, to).await;
        let delete = format!("$JS.API.CONSUMER.DELETE.{stream}.{name}");
        // If this is lost, the server forgets it by itself.
        let _ = self.wire.client.publish(delete, "".into()).await;
        rows
    }

    async fn pull(&self, stream: &str, name: &str, limit: usize, to: u64) -> Result<Vec<Arc<Row>>> {
        let client = &self.wire.client;
        let gone = || Error::new(ErrorKind::Unavailable, "there is no connection to nats");
        let inbox = client.new_inbox();
        let mut messages = client.subscribe(inbox.clone()).await.map_err(|_| gone())?;
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}");
        let body = json!({ "batch": limit, "no_wait": true }).to_string();
        let asked = client.publish_with_reply(subject, inbox, body.into()).await;
        asked.map_err(|_| gone())?;
        let until = self.wire.patience();
        let mut line = self.wire.line();
        let mut rows = Vec::with_capacity(limit.min(64));
        loop {
            let message = tokio::select! {
                biased;
                message = messages.next() => message,
                () = line.broken() => None,
                () = self.wire.config.clock.sleep_until(until) => None,
            };
            let message = message.ok_or_else(gone)?;
            let form = &self.wire.config.form;
            let Some((row, place)) = Row::of(&message, self.wire.base(), form) else {
                // A status: there is nothing more.
                return Ok(rows);
            };
            if place.position > to {
                return Ok(rows);
            }
            let last = place.pending == 0 || place.position == to;
            rows.push(Arc::new(row));
            if last || rows.len() == limit {
                return Ok(rows);
            }
        }
    }

    /// Nothing up to `position` is held in this process any more, and events behind it are next.
    pub(crate) fn begin_at(&self, position: u64) {
        let is_behind = self.head() < position;
        {
            let mut cache = self.cache.lock();
            while cache
                .rows
                .front()
                .is_some_and(|row| row.position <= position)
            {
                if let Some(gone) = cache.rows.pop_front() {
                    cache.bytes -= gone.size;
                }
            }
            cache.from = cache.from.max(position);
            if is_behind {
                self.head.store(position, Ordering::Release);
            }
        }
        if is_behind {
            self.moved.send_modify(|n| *n += 1);
            self.appended.send_modify(|n| *n += 1);
        }
    }

    /// Changes when the log is to be followed from another place.
    pub(crate) fn moved(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Adds what came behind the head; only whoever follows the log does.
    pub(crate) fn append(&self, rows: Vec<Arc<Row>>) {
        {
            let mut cache = self.cache.lock();
            // The head may have been moved meanwhile.
            for row in rows.into_iter().filter(|row| row.position > self.head()) {
                self.head.store(row.position, Ordering::Release);
                cache.push(row, self.wire.config.cache_bytes);
            }
        }
        self.appended.send_modify(|n| *n += 1);
    }
}

/// A consumer as the server made it.
#[derive(Debug, Deserialize)]
pub(crate) struct Made {
    pub(crate) name: String,
    config: Value,
}

impl Made {
    /// Old servers leave out what they do not know, without a word: then we would read another part of
    /// the log than we think.
    pub(crate) fn check(&self, start: &Value) -> Result<()> {
        let wanted = start.as_object().into_iter().flatten();
        // A time comes back in another form.
        let mut wanted = wanted.filter(|(name, _)| *name != "opt_start_time");
        if wanted.all(|(name, value)| self.config.get(name) == Some(value)) {
            return Ok(());
        }
        let message = "the nats server made another consumer than was asked for";
        Err(Error::new(ErrorKind::Unsupported, message))
    }
}

/// Adds members to an object.
pub(crate) fn merge(config: &mut Value, more: &Value) {
    if let (Value::Object(config), Value::Object(more)) = (config, more) {
        config.extend(more.clone());
    }
}
