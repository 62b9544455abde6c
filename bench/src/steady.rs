//! What PostgreSQL does over time: a long backlog is drained at one rate from its first event to its
//! last, and what is kept per subscription does not grow while the log does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fanfare::bus::{Bus, Outcome as Handled, Raw};
use fanfare::core::subscription::Start;
use fanfare_conformance::broker::{Broker, Durability, postgres};
use tokio::sync::{Notify, Semaphore};
use tokio::time::MissedTickBehavior;
use tokio_postgres::{Client, NoTls};

use crate::load::events;
use crate::measure::{Watch, resident_mib};
use crate::report::{Report, grouped};
use crate::{Options, Outcome, machine};

/// Events of the backlog, and of one publish while it is made.
const BACKLOG: usize = 1_000_000;
const BATCH: usize = 1_000;
/// Parts of the backlog whose rates are compared.
const PARTS: usize = 10;
/// Events per second of the long run, published one by one, and how many are made ready at once.
const RATE: usize = 5_000;
const BURST: usize = 10;
/// The most publishes that are on their way at once.
const CALLERS: usize = 1_024;
/// How long the long run takes, in minutes.
const MINUTES: usize = 10;
/// One handling in so many fails, and the event comes again.
const FAILING: u64 = 100;
/// Handlers at once.
const HANDLERS: usize = 32;
/// How long a run may take to end.
const GRACE: Duration = Duration::from_mins(2);

/// Sizes and dead rows of all but the log and its ids.
const SMALL: &str = "
SELECT relname::text, pg_table_size(relid)::bigint, n_dead_tup::bigint FROM pg_stat_user_tables
WHERE relname !~ '^(log|ids)' ORDER BY relname";

pub(crate) async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    backlog(options, report).await?;
    long(options, report).await
}

async fn backlog(options: &Options, report: &mut Report) -> Outcome<()> {
    let count = options.events(BACKLOG);
    report.section("PostgreSQL: a backlog is drained");
    report.say(&machine::moment());
    let broker = Broker::start(postgres(), Durability::Always).await?;
    let bus = fanfare::connect(&broker.url()).await?;
    for _ in 0..count.div_ceil(BATCH) {
        for published in bus.publish_all(events(BATCH)?).await? {
            published?;
        }
    }
    let part = (count / PARTS).max(1) as u64;
    let (handled, passed) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let watch = Watch::start();
    let (counting, passing) = (Arc::clone(&handled), Arc::clone(&passed));
    bus.subscribe("bench", "orders.**")
        .start(Start::Earliest)
        .concurrency(HANDLERS)
        .handle(move |_: Raw| {
            if (counting.fetch_add(1, Ordering::AcqRel) + 1).is_multiple_of(part) {
                passing.notify_one();
            }
            async {}
        })
        .await?;
    let (mut rows, mut before) = (Vec::new(), (0, Duration::ZERO));
    while before.0 < part * PARTS as u64 {
        passed.notified().await;
        let now = (handled.load(Ordering::Acquire), watch.elapsed());
        let rate = (now.0 - before.0) as f64 / now.1.saturating_sub(before.1).as_secs_f64();
        rows.push(vec![
            grouped(now.0 as f64),
            grouped(rate),
            resident_mib().to_string(),
        ]);
        before = now;
    }
    bus.shutdown(GRACE).await?;
    report.say(&format!(
        "{} events, one subscription, {HANDLERS} handlers; the rate of each tenth.",
        grouped(count as f64)
    ));
    report.table(&["handled", "events/s", "RSS MiB"], &rows);
    Ok(())
}

/// Bytes and dead rows of each small table.
type Small = BTreeMap<String, (i64, i64)>;

async fn long(options: &Options, report: &mut Report) -> Outcome<()> {
    report.section("PostgreSQL: ten minutes of 5,000 events per second");
    report.say(&machine::moment());
    let broker = Broker::start(postgres(), Durability::Always).await?;
    let bus = fanfare::connect(&broker.url()).await?;
    let handled = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&handled);
    bus.subscribe("bench", "orders.**")
        .concurrency(HANDLERS)
        .handle(move |_: Raw| {
            let failing = counting
                .fetch_add(1, Ordering::AcqRel)
                .is_multiple_of(FAILING);
            async move {
                if failing {
                    Handled::Fail("one in a hundred".into())
                } else {
                    Handled::Ack
                }
            }
        })
        .await?;
    let (looking, connection) = tokio_postgres::connect(&broker.url(), NoTls).await?;
    tokio::spawn(connection);
    let minute = Duration::from_mins(1) / u32::try_from(options.quicker.max(1))?;
    let (mut rows, mut looks) = (Vec::new(), Vec::new());
    let published = Arc::new(AtomicU64::new(0));
    for number in 1..=MINUTES {
        let (before, watch) = (published.load(Ordering::Acquire), Watch::start());
        publish_steadily(&bus, &published, minute).await?;
        let all = published.load(Ordering::Acquire);
        let small = look(&looking).await?;
        rows.push(vec![
            number.to_string(),
            grouped((all - before) as f64 / watch.elapsed().as_secs_f64()),
            grouped(handled.load(Ordering::Acquire) as f64),
            grouped(small.values().map(|(bytes, _)| bytes / 1_024).sum::<i64>() as f64),
            grouped(small.values().map(|(_, dead)| dead).sum::<i64>() as f64),
            resident_mib().to_string(),
        ]);
        looks.push(small);
    }
    bus.shutdown(GRACE).await?;
    report.say(&format!(
        "Published one by one; one handling in {FAILING} fails and the event is retried. \
         Small tables: all but the log's partitions and the ids."
    ));
    let head = [
        "minute",
        "published/s",
        "handled",
        "small tables KiB",
        "dead rows",
        "RSS MiB",
    ];
    report.table(&head, &rows);
    if let (Some(early), Some(late)) = (looks.get(1), looks.last()) {
        compare(report, early, late);
    }
    Ok(())
}

/// The tables that changed, or hold anything at the end.
fn compare(report: &mut Report, early: &Small, late: &Small) {
    let rows = late.iter().filter(|(_, (bytes, _))| *bytes > 0);
    let rows: Vec<Vec<String>> = rows
        .map(|(name, (bytes, dead))| {
            let (bytes_then, dead_then) = early.get(name).copied().unwrap_or_default();
            vec![
                name.clone(),
                (bytes_then / 1_024).to_string(),
                (bytes / 1_024).to_string(),
                dead_then.to_string(),
                dead.to_string(),
            ]
        })
        .collect();
    let head = [
        "table",
        "KiB at minute 2",
        "KiB at minute 10",
        "dead at 2",
        "dead at 10",
    ];
    report.table(&head, &rows);
}

/// Whatever the answers take; only as many as are on their way at most hold it up.
async fn publish_steadily(bus: &Bus, published: &Arc<AtomicU64>, span: Duration) -> Outcome<()> {
    let room = Arc::new(Semaphore::new(CALLERS));
    let bursts = span.as_millis() as usize * RATE / BURST / 1_000;
    let mut every = tokio::time::interval(Duration::from_millis((BURST * 1_000 / RATE) as u64));
    every.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for _ in 0..bursts {
        every.tick().await;
        for event in events(BURST)? {
            let permit = Arc::clone(&room).acquire_owned().await?;
            let (bus, published) = (bus.clone(), Arc::clone(published));
            tokio::spawn(async move {
                if bus.publish(event).await.is_ok() {
                    published.fetch_add(1, Ordering::AcqRel);
                }
                drop(permit);
            });
        }
    }
    // All answers are there.
    let _ = room.acquire_many(u32::try_from(CALLERS)?).await?;
    Ok(())
}

async fn look(client: &Client) -> Outcome<Small> {
    let mut small = Small::new();
    for row in client.query(SMALL, &[]).await? {
        small.insert(row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?));
    }
    Ok(small)
}
