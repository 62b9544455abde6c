//! Operating subscriptions. What creates, changes or counts runs on the writer, between two commits, so
//! that every answer fits one moment.

pub(crate) mod audit;
pub(crate) mod counts;

use std::sync::Arc;

use async_trait::async_trait;
use fanfare_core::admin::{
    Admin, Audited, Health, Put, SeekTo, Sought, StreamStats, SubscriptionInfo,
};
use fanfare_core::advice::Advice;
use fanfare_core::id::EventId;
use fanfare_core::pattern::PatternSet;
use fanfare_core::position::Position;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};
use fanfare_core::timestamp::Timestamp;
use fanfare_core::{Error, ErrorKind, Result};
use fanfare_cursor::{Cursor, Interest};
use rusqlite::{Connection, OptionalExtension};

use crate::backend::SqliteBackend;
use crate::history;
use crate::row::{integer, unsigned};
use crate::stream::Stream;
use crate::subscription::{Live, Subscription, options, stored};
use crate::writer::cursors;
use crate::writer::job::Act;

#[async_trait]
impl Admin for SqliteBackend {
    async fn put(&self, spec: &SubscriptionSpec) -> Result<Put> {
        spec.check()?;
        let stream = Arc::clone(&self.inner.stream);
        stream.check()?;
        let spec = spec.clone();
        let run = move |act: &mut Act<'_>| {
            let there = stream.subscriptions.get(&spec.name).ok();
            if spec.ephemeral || there.as_ref().is_some_and(|s| s.number.is_none()) {
                return put_ephemeral(act, &stream, there, &spec);
            }
            let sql = "SELECT number, spec FROM subscription WHERE name = ?1";
            let row = act.tx.query_row(sql, [spec.name.as_str()], |row| {
                Ok((row.get(0)?, row.get::<_, String>(1)?))
            });
            match row.optional()? {
                None => create(act, &stream, &spec),
                Some((number, column)) => change(act, &stream, number, &column, &spec),
            }
        };
        self.inner.queue.operate(true, run).await
    }

    async fn set_patterns(&self, name: &SubscriptionName, patterns: PatternSet) -> Result<()> {
        self.inner.stream.check()?;
        let subscription = self.inner.stream.subscriptions.get(name)?;
        let run = move |act: &mut Act<'_>| {
            let (mut spec, mut interest) = {
                let live = subscription.live.lock();
                (live.spec.clone(), live.interest.clone())
            };
            interest.change(act.head + 1, patterns.clone());
            spec.patterns = patterns.clone();
            if let Err(error) = write_spec(act.tx, &subscription, &spec, &interest)? {
                return Ok(Err(error));
            }
            let subscription = Arc::clone(&subscription);
            act.after_commit(move || {
                let mut live = subscription.live.lock();
                live.spec = spec;
                live.interest = interest;
                live.ahead = crate::consume::ahead::Ahead::default();
            });
            Ok(Ok(()))
        };
        self.inner.queue.operate(false, run).await
    }

    async fn delete(&self, name: &SubscriptionName, force: bool) -> Result<()> {
        let stream = Arc::clone(&self.inner.stream);
        stream.check()?;
        let subscription = stream.subscriptions.get(name)?;
        let run = move |act: &mut Act<'_>| {
            let counts = counts::of(act.tx, &stream, &subscription)?;
            if !force && (counts.unsettled() > 0 || counts.dead > 0) {
                let name = &subscription.name;
                return Ok(Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "subscription `{name}` has {} in flight, {} waiting and {} dead letters",
                        counts.in_flight, counts.waiting, counts.dead
                    ),
                )));
            }
            if let Some(number) = subscription.number {
                forget(act.tx, number)?;
                act.deleted.push(number);
            }
            let (stream, subscription) = (Arc::clone(&stream), Arc::clone(&subscription));
            act.after_commit(move || stream.subscriptions.remove(&subscription));
            Ok(Ok(()))
        };
        self.inner.queue.operate(false, run).await
    }

    async fn get(&self, name: &SubscriptionName) -> Result<SubscriptionInfo> {
        let subscription = self.inner.stream.subscriptions.get(name);
        self.inner.stream.check()?;
        let mut infos = self.infos(vec![subscription?]).await?;
        infos.pop().ok_or_else(|| no_answer("get"))
    }

    async fn spec(&self, name: &SubscriptionName) -> Result<SubscriptionSpec> {
        let subscription = self.inner.stream.subscriptions.get(name);
        self.inner.stream.check()?;
        let spec = subscription?.live.lock().spec.clone();
        Ok(spec)
    }

    async fn list(&self) -> Result<Vec<SubscriptionInfo>> {
        self.inner.stream.check()?;
        self.infos(self.inner.stream.subscriptions.durable()).await
    }

    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()> {
        self.inner.stream.check()?;
        let subscription = self.inner.stream.subscriptions.get(name)?;
        let run = move |act: &mut Act<'_>| {
            let sql = "UPDATE subscription SET paused = ?2 WHERE number = ?1";
            act.tx
                .prepare_cached(sql)?
                .execute((subscription.number, paused))?;
            let subscription = Arc::clone(&subscription);
            act.after_commit(move || {
                subscription.live.lock().paused = paused;
                subscription.wake();
            });
            Ok(Ok(()))
        };
        self.inner.queue.operate(false, run).await
    }

    async fn seek(&self, name: &SubscriptionName, to: &SeekTo, dry_run: bool) -> Result<Sought> {
        let stream = Arc::clone(&self.inner.stream);
        stream.check()?;
        let subscription = stream.subscriptions.get(name)?;
        let (to, sought) = (to.clone(), Arc::clone(&subscription));
        let run = move |act: &mut Act<'_>| {
            let base = match resolve(act.tx, &stream, &to)? {
                Ok(base) => base,
                Err(error) => return Ok(Err(error)),
            };
            let live = &mut *sought.live.lock();
            let events = counts::matching(act.tx, &stream, live, base, stream.tail.head())?;
            let from = Position::from(live.cursor.frontier());
            if !dry_run {
                live.seek(base);
            }
            let to = Position::from(base);
            Ok(Ok(Sought { from, to, events }))
        };
        let answer = self.inner.queue.operate(false, run).await?;
        if !dry_run && subscription.number.is_some() {
            self.inner.queue.flush(Arc::clone(&subscription)).await?;
        }
        subscription.wake();
        Ok(answer)
    }

    async fn audit(&self, name: Option<&SubscriptionName>) -> Result<Vec<Audited>> {
        let stream = &self.inner.stream;
        stream.check()?;
        let all = match name {
            Some(name) => vec![stream.subscriptions.get(name)?],
            None => stream.subscriptions.durable(),
        };
        audit::audit(&self.inner, all).await
    }

    async fn stats(&self) -> Result<StreamStats> {
        let stream = Arc::clone(&self.inner.stream);
        stream.check()?;
        let read = move |db: &Connection| {
            let first = first_after(db, stream.trimmed()).map_err(crate::error::sqlite)?;
            let head = stream.tail.head();
            Ok(StreamStats {
                events: stream.census.events(),
                bytes: stream.bytes.load(std::sync::atomic::Ordering::Relaxed),
                first: first.map(Position::from),
                last: (head > 0).then(|| Position::from(head)),
                ..StreamStats::default()
            })
        };
        self.inner.readers.read(read).await
    }

    async fn health(&self) -> Health {
        let (ok, detail) = self.inner.stream.health();
        Health { ok, detail }
    }

    async fn advice(&self) -> Result<Vec<Advice>> {
        let version = format!("sqlite {}, built in", rusqlite::version());
        Ok(vec![
            Advice::good("version", version),
            self.inner.disk.advice(),
        ])
    }
}

impl SqliteBackend {
    async fn infos(&self, all: Vec<Arc<Subscription>>) -> Result<Vec<SubscriptionInfo>> {
        let stream = Arc::clone(&self.inner.stream);
        let run = move |act: &mut Act<'_>| {
            let info = |subscription: &Arc<Subscription>| info(act.tx, &stream, subscription);
            all.iter()
                .map(info)
                .collect::<rusqlite::Result<_>>()
                .map(Ok)
        };
        self.inner.queue.operate(false, run).await
    }
}

fn info(
    db: &Connection,
    stream: &Stream,
    subscription: &Subscription,
) -> rusqlite::Result<SubscriptionInfo> {
    let counts = counts::of(db, stream, subscription)?;
    let live = &mut *subscription.live.lock();
    let oldest = match counts.unsettled() {
        0 => None,
        _ => counts::oldest_unsettled(db, stream, live)?,
    };
    Ok(SubscriptionInfo {
        spec: live.spec.clone(),
        created: subscription.created,
        paused: live.paused,
        counts,
        frontier: Position::from(live.cursor.frontier()),
        oldest_unsettled: oldest.map(Timestamp::from_micros),
    })
}

type Answer<T> = rusqlite::Result<Result<T>>;

fn create(act: &mut Act<'_>, stream: &Arc<Stream>, spec: &SubscriptionSpec) -> Answer<Put> {
    let base = base_of(act, stream, spec.start)?;
    let interest = Interest::new(spec.patterns.clone());
    let column = match stored::write(spec, &interest) {
        Ok(column) => column,
        Err(error) => return Ok(Err(error)),
    };
    act.tx.execute(
        "INSERT INTO subscription (name, spec, created, paused) VALUES (?1, ?2, ?3, 0)",
        (spec.name.as_str(), column, act.now.as_micros()),
    )?;
    let number = act.tx.last_insert_rowid();
    let cursor = Cursor::new(options(spec), base, stream.fresh_epoch());
    let mut live = Live::new(spec.clone(), interest, cursor);
    if let Some(taken) = live.take() {
        cursors::write(act.tx, number, &taken)?;
    }
    // As it will be read back.
    let created = Timestamp::from_micros(act.now.as_micros());
    let subscription = Arc::new(Subscription::new(Some(number), created, live));
    let stream = Arc::clone(stream);
    act.after_commit(move || stream.subscriptions.add(subscription));
    Ok(Ok(Put::Created))
}

fn change(
    act: &mut Act<'_>,
    stream: &Arc<Stream>,
    number: i64,
    column: &str,
    spec: &SubscriptionSpec,
) -> Answer<Put> {
    let (old, interest) = match stored::read(spec.name.as_str(), column) {
        Ok(read) => read,
        Err(error) => return Ok(Err(error)),
    };
    let new = match merged(&old, spec) {
        Ok(new) => new,
        Err(error) => return Ok(Err(error)),
    };
    if new == old {
        return Ok(Ok(Put::Unchanged));
    }
    let column = match stored::write(&new, &interest) {
        Ok(column) => column,
        Err(error) => return Ok(Err(error)),
    };
    let sql = "UPDATE subscription SET spec = ?2 WHERE number = ?1";
    act.tx.execute(sql, (number, column))?;
    let stream = Arc::clone(stream);
    act.after_commit(move || {
        if let Some(subscription) = stream.subscriptions.numbered(number) {
            take_options(&subscription, new);
        }
    });
    Ok(Ok(Put::Changed))
}

fn put_ephemeral(
    act: &mut Act<'_>,
    stream: &Arc<Stream>,
    there: Option<Arc<Subscription>>,
    spec: &SubscriptionSpec,
) -> Answer<Put> {
    if let Some(there) = there {
        let old = there.live.lock().spec.clone();
        if old.ephemeral != spec.ephemeral {
            let detail = format!(
                "subscription `{}` exists and is not of this kind",
                spec.name
            );
            return Ok(Err(Error::new(ErrorKind::Conflict, detail)));
        }
        return Ok(merged(&old, spec).map(|new| {
            if new == old {
                return Put::Unchanged;
            }
            take_options(&there, new);
            Put::Changed
        }));
    }
    let base = base_of(act, stream, spec.start)?;
    let interest = Interest::new(spec.patterns.clone());
    let cursor = Cursor::new(options(spec), base, stream.fresh_epoch());
    let live = Live::new(spec.clone(), interest, cursor);
    let subscription = Arc::new(Subscription::new(None, act.now, live));
    let stream = Arc::clone(stream);
    act.after_commit(move || stream.subscriptions.add(subscription));
    Ok(Ok(Put::Created))
}

/// The old subscription with what may change of the new; a conflict where something else differs.
fn merged(old: &SubscriptionSpec, new: &SubscriptionSpec) -> Result<SubscriptionSpec> {
    let name = &old.name;
    let differs = |what: &str, old: &str, new: &str| {
        let detail = format!("subscription `{name}` has {what} {old}, not {new}");
        Err(Error::new(ErrorKind::Conflict, detail))
    };
    if old.patterns != new.patterns {
        let (old, new) = (old.patterns.to_string(), new.patterns.to_string());
        return differs("patterns", &format!("`{old}`"), &format!("`{new}`"));
    }
    if old.ordered != new.ordered {
        return differs(
            "ordered",
            &old.ordered.to_string(),
            &new.ordered.to_string(),
        );
    }
    if old.on_dead != new.on_dead {
        let (old, new) = (format!("{:?}", old.on_dead), format!("{:?}", new.on_dead));
        return differs("on_dead", &old.to_lowercase(), &new.to_lowercase());
    }
    Ok(SubscriptionSpec {
        lease: new.lease,
        retry: new.retry.clone(),
        dead_letter: new.dead_letter,
        ..old.clone()
    })
}

fn take_options(subscription: &Subscription, spec: SubscriptionSpec) {
    let mut live = subscription.live.lock();
    live.cursor.set_options(options(&spec));
    live.spec = spec;
}

fn write_spec(
    tx: &Connection,
    subscription: &Subscription,
    spec: &SubscriptionSpec,
    interest: &Interest,
) -> Answer<()> {
    let Some(number) = subscription.number else {
        return Ok(Ok(()));
    };
    match stored::write(spec, interest) {
        Ok(column) => {
            let sql = "UPDATE subscription SET spec = ?2 WHERE number = ?1";
            tx.execute(sql, (number, column)).map(|_| Ok(()))
        }
        Err(error) => Ok(Err(error)),
    }
}

/// Removes every row of the subscription with this number.
fn forget(tx: &Connection, number: i64) -> rusqlite::Result<()> {
    tx.execute("DELETE FROM subscription WHERE number = ?1", [number])?;
    for table in ["place", "lease", "exception", "block", "dead"] {
        tx.execute(&format!("DELETE FROM {table} WHERE sub = ?1"), [number])?;
    }
    Ok(())
}

/// The position behind which a new subscription begins.
fn base_of(act: &Act<'_>, stream: &Stream, start: Start) -> rusqlite::Result<u64> {
    let (first, head) = (stream.trimmed(), act.head.max(stream.trimmed()));
    Ok(match start {
        Start::Latest => head,
        Start::Earliest => first,
        Start::After(position) => position.low().clamp(first, head),
        Start::Time(time) => history::first_recorded(act.tx, first, head, time)? - 1,
    })
}

/// The position behind which a seek goes on. Events of the transaction that runs are not counted yet.
fn resolve(tx: &Connection, stream: &Stream, to: &SeekTo) -> Answer<u64> {
    let first = stream.trimmed();
    let head = stream.tail.head().max(first);
    Ok(Ok(match to {
        SeekTo::Earliest => first,
        SeekTo::Latest => head,
        SeekTo::After(position) => position.low().clamp(first, head),
        SeekTo::Time(time) => history::first_recorded(tx, first, head, *time)? - 1,
        SeekTo::Event(id) => return Ok(behind_event(tx, stream, id)),
    }))
}

fn behind_event(tx: &Connection, stream: &Stream, id: &str) -> Result<u64> {
    let found = history::by_id(tx, stream, &EventId::parse(id)?, None)?;
    match found.as_slice() {
        [one] => Ok(one.position - 1),
        [] => Err(Error::new(
            ErrorKind::NotFound,
            "no event with this id is kept",
        )),
        many => Err(Error::new(
            ErrorKind::Conflict,
            format!("{} events of different sources have this id", many.len()),
        )),
    }
}

fn first_after(db: &Connection, position: u64) -> rusqlite::Result<Option<u64>> {
    db.prepare_cached("SELECT pos FROM log WHERE pos > ?1 ORDER BY pos LIMIT 1")?
        .query_row([integer(position)], |row| row.get(0))
        .optional()
        .map(|found| found.map(unsigned))
}

fn no_answer(what: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("{what} came to nothing"))
}
