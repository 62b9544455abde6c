//! The sqlite backend against raw SQLite that does the same work, and against a bare file.

use std::collections::HashMap;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fanfare::bus::{Bus, Raw};
use fanfare::core::event::Event;
use fanfare::core::id::EventId;
use fanfare::core::subscription::Start;
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::compare::{Contender, compare};
use crate::floor;
use crate::load::{Countdown, callers, events, paced};
use crate::measure::{Run, Sample};
use crate::report::Report;
use crate::{Options, Outcome};

/// Events of a publishing run, for every number of callers.
const PUBLISH: [(usize, usize); 4] = [(1, 8_000), (64, 300_000), (256, 500_000), (1_024, 800_000)];
/// Events of a consuming run.
const CONSUME: usize = 400_000;
/// Events of an end-to-end run.
const END_TO_END: usize = 300_000;
/// Events of a run at a steady rate.
const PACED: usize = 5_000;
/// Handlers at once.
const HANDLERS: usize = 32;
/// How long a run may take to drain.
const GRACE: Duration = Duration::from_mins(2);

pub(crate) async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    report.section("SQLite: WAL, synchronous FULL, every publish awaited until it is durable");
    for (callers, count) in PUBLISH {
        let count = options.events(count);
        let contenders = [
            Contender::new("raw sqlite", || publish_raw(fresh(options), callers, count)),
            Contender::new("fanfare", || publish(fresh(options), callers, count)),
            Contender::new("file", || publish_file(fresh(options), callers, count)),
        ];
        let title = format!("publish, {callers} callers");
        compare(report, &title, options.repetitions, &contenders).await?;
    }
    let count = options.events(PACED);
    let contenders = [
        Contender::new("raw sqlite", || paced_raw(fresh(options), count)),
        Contender::new("fanfare", || paced_publish(fresh(options), count)),
        Contender::new("fanfare, publish to handler", || {
            paced_to_handler(fresh(options), count)
        }),
    ];
    let title = "publish at a steady 1,000 events/s, latency from the moment each was due";
    compare(report, title, options.repetitions, &contenders).await?;
    let count = options.events(CONSUME);
    let contenders = [
        Contender::new("raw sqlite, 100 per commit", || {
            consume_raw(fresh(options), count)
        }),
        Contender::new("fanfare", || consume(fresh(options), count)),
    ];
    let title = "consume a backlog: read, handle, settle";
    compare(report, title, options.repetitions, &contenders).await?;
    let count = options.events(END_TO_END);
    for subscriptions in [1, 3] {
        let contenders = [
            Contender::new("raw sqlite, publish only", || {
                publish_raw(fresh(options), 256, count)
            }),
            Contender::new("fanfare, publish to handler", || {
                end_to_end(fresh(options), 256, subscriptions, count)
            }),
        ];
        let title = format!("end to end, 256 callers, {subscriptions} subscriptions");
        compare(report, &title, options.repetitions, &contenders).await?;
    }
    Ok(())
}

/// The directory or why there is none, so that a run reports it.
type Dir = Outcome<TempDir>;

fn fresh(options: &Options) -> Dir {
    options.fresh_dir()
}

async fn publish_raw(dir: Dir, count_callers: usize, count: usize) -> Outcome<Sample> {
    let dir = dir?;
    let group = floor::sqlite::open(dir.path())?;
    publish_to(group, count_callers, count).await
}

async fn publish_file(dir: Dir, count_callers: usize, count: usize) -> Outcome<Sample> {
    let dir = dir?;
    let group = floor::file::open(dir.path())?;
    publish_to(group, count_callers, count).await
}

async fn publish_to(
    group: floor::group::Group,
    count_callers: usize,
    count: usize,
) -> Outcome<Sample> {
    callers(count_callers, events(count)?, move |event| {
        let group = group.clone();
        async move { group.publish(event).await }
    })
    .await
}

async fn publish(dir: Dir, count_callers: usize, count: usize) -> Outcome<Sample> {
    let dir = dir?;
    let bus = open(dir.path().to_path_buf()).await?;
    let sample = publish_on(&bus, count_callers, count).await?;
    bus.shutdown(GRACE).await?;
    Ok(sample)
}

async fn publish_on(bus: &Bus, count_callers: usize, count: usize) -> Outcome<Sample> {
    let bus = bus.clone();
    callers(count_callers, events(count)?, move |event| {
        publish_one(bus.clone(), event)
    })
    .await
}

async fn paced_raw(dir: Dir, count: usize) -> Outcome<Sample> {
    let dir = dir?;
    let group = floor::sqlite::open(dir.path())?;
    paced(count, move |event| {
        let group = group.clone();
        async move { group.publish(event).await }
    })
    .await
}

async fn paced_publish(dir: Dir, count: usize) -> Outcome<Sample> {
    let dir = dir?;
    let bus = open(dir.path().to_path_buf()).await?;
    let publisher = bus.clone();
    let sample = paced(count, move |event| publish_one(publisher.clone(), event)).await?;
    bus.shutdown(GRACE).await?;
    Ok(sample)
}

/// Latencies are those of the handler: it tells the publisher's task that waits for it.
async fn paced_to_handler(dir: Dir, count: usize) -> Outcome<Sample> {
    let dir = dir?;
    let bus = open(dir.path().to_path_buf()).await?;
    let arrived: Arc<Mutex<HashMap<EventId, Arc<Notify>>>> = Arc::default();
    let waiters = Arc::clone(&arrived);
    bus.subscribe("bench", "orders.**")
        .concurrency(HANDLERS)
        .handle(move |event: Event| {
            let waiter = locked(&waiters).remove(event.id());
            async move {
                if let Some(waiter) = waiter {
                    waiter.notify_one();
                }
            }
        })
        .await?;
    let publisher = bus.clone();
    let sample = paced(count, move |event| {
        let (bus, arrived) = (publisher.clone(), Arc::clone(&arrived));
        async move {
            let waiter = Arc::new(Notify::new());
            locked(&arrived).insert(event.id().clone(), Arc::clone(&waiter));
            publish_one(bus, event).await?;
            waiter.notified().await;
            Ok(())
        }
    })
    .await?;
    bus.shutdown(GRACE).await?;
    Ok(sample)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn publish_one(bus: Bus, event: Event) -> Outcome<()> {
    bus.publish(event).await?;
    Ok(())
}

async fn consume_raw(dir: Dir, count: usize) -> Outcome<Sample> {
    let dir = dir?;
    publish_to(floor::sqlite::open(dir.path())?, 1_024, count).await?;
    floor::sqlite::consume(dir.path(), |event| {
        black_box(event.bytes());
    })
}

/// From the first delivery asked for until every settlement is durable.
async fn consume(dir: Dir, count: usize) -> Outcome<Sample> {
    let dir = dir?;
    let bus = open(dir.path().to_path_buf()).await?;
    publish_on(&bus, 1_024, count).await?;
    let done = Countdown::of(count);
    let run = Run::begin();
    subscribe(&bus, "bench", &done).await?;
    done.done().await;
    bus.shutdown(GRACE).await?;
    Ok(run.end(count, Vec::new()))
}

/// From the first publish until every settlement of every subscription is durable.
async fn end_to_end(
    dir: Dir,
    count_callers: usize,
    subscriptions: usize,
    count: usize,
) -> Outcome<Sample> {
    let dir = dir?;
    let bus = open(dir.path().to_path_buf()).await?;
    let done = Countdown::of(count * subscriptions);
    for number in 0..subscriptions {
        subscribe(&bus, &format!("bench{number}"), &done).await?;
    }
    let run = Run::begin();
    let sent = publish_on(&bus, count_callers, count).await?;
    done.done().await;
    bus.shutdown(GRACE).await?;
    Ok(run.end(count, sent.latencies))
}

async fn open(dir: PathBuf) -> Outcome<Bus> {
    let url = format!("sqlite:{}", dir.join("data").display());
    Ok(fanfare::connect(&url).await?)
}

async fn subscribe(bus: &Bus, name: &str, done: &Countdown) -> Outcome<()> {
    let counting = Arc::new(done.clone());
    bus.subscribe(name, "orders.**")
        .start(Start::Earliest)
        .concurrency(HANDLERS)
        .handle(move |event: Raw| {
            let counting = Arc::clone(&counting);
            async move {
                black_box(&event);
                counting.tick();
            }
        })
        .await?;
    Ok(())
}
