//! The sqlite backend against raw SQLite that does the same work, and against a bare file.

use std::hint::black_box;

use tempfile::TempDir;

use crate::compare::{Contender, compare};
use crate::load::{callers, events, paced};
use crate::measure::Sample;
use crate::report::Report;
use crate::{Options, Outcome, floor, ours};

/// Events of a publishing run, for every number of callers.
const PUBLISH: [(usize, usize); 4] = [(1, 8_000), (64, 300_000), (256, 500_000), (1_024, 800_000)];
/// Events of a consuming run.
const CONSUME: usize = 400_000;
/// Events of an end-to-end run.
const END_TO_END: usize = 300_000;
/// Events of a run at a steady rate.
const PACED: usize = 5_000;
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
    ours::publish(&url(&dir), count_callers, count).await
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
    ours::paced_publish(&url(&dir), count).await
}

async fn paced_to_handler(dir: Dir, count: usize) -> Outcome<Sample> {
    let dir = dir?;
    ours::paced_to_handler(&url(&dir), count).await
}

async fn consume_raw(dir: Dir, count: usize) -> Outcome<Sample> {
    let dir = dir?;
    publish_to(floor::sqlite::open(dir.path())?, 1_024, count).await?;
    floor::sqlite::consume(dir.path(), |event| {
        black_box(event.bytes());
    })
}

async fn consume(dir: Dir, count: usize) -> Outcome<Sample> {
    let dir = dir?;
    ours::consume(&url(&dir), count).await
}

async fn end_to_end(
    dir: Dir,
    count_callers: usize,
    subscriptions: usize,
    count: usize,
) -> Outcome<Sample> {
    let dir = dir?;
    ours::end_to_end(&url(&dir), count_callers, subscriptions, count).await
}

fn url(dir: &TempDir) -> String {
    format!("sqlite:{}", dir.path().join("data").display())
}
