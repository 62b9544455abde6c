//! The postgres backend against raw SQL that does the same work, on a private server with fsync on.

use std::hint::black_box;
use std::sync::Arc;

use fanfare_conformance::broker::{Broker, Durability, postgres};
use tokio::sync::Notify;

use crate::compare::{Contender, compare};
use crate::floor::postgres::{Publisher, Reader, listen};
use crate::load::{alone, callers, chunks, events};
use crate::measure::{Run, Sample};
use crate::report::Report;
use crate::{Options, Outcome, machine, ours};

/// Events of a publishing run, for every number of callers.
const PUBLISH: [(usize, usize); 4] = [(1, 2_000), (64, 15_000), (256, 20_000), (1_024, 30_000)];
/// Events of one batch, of a run, and callers.
const BATCHES: [(usize, usize, usize); 2] = [(100, 150_000, 4), (1_000, 200_000, 4)];
/// Events of a consuming run.
const CONSUME: usize = 200_000;
/// Events of an end-to-end run.
const END_TO_END: usize = 20_000;
/// Callers of an end-to-end run.
const CALLERS: usize = 256;
/// Events of an idle run.
const IDLE: usize = 400;
/// Events of one raw read that commits its cursor.
const READ: i64 = 100;
const LONG_READ: i64 = 1_000;

pub(crate) async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    report.section("PostgreSQL: fsync on, every publish awaited until it is committed");
    report.say(&machine::moment());
    let repetitions = options.repetitions;
    for (callers, count) in PUBLISH {
        let count = options.events(count);
        let contenders = [
            Contender::new("raw, one commit each, pipelined", move || {
                publish_raw(callers, count)
            }),
            Contender::new("fanfare", move || publish(callers, count)),
        ];
        let title = format!("publish, {callers} callers");
        compare(report, &title, repetitions, &contenders).await?;
    }
    for (batch, count, callers) in BATCHES {
        let count = options.events(count);
        let contenders = [
            Contender::new("raw, one connection", move || {
                batches_raw(callers, batch, count)
            }),
            Contender::new("fanfare", move || batches(callers, batch, count)),
        ];
        let title = format!("publish, {callers} callers, {batch} events at a time");
        compare(report, &title, repetitions, &contenders).await?;
    }
    consuming(options, report).await
}

async fn consuming(options: &Options, report: &mut Report) -> Outcome<()> {
    let repetitions = options.repetitions;
    let count = options.events(CONSUME);
    let contenders = [
        Contender::new("raw cursor, 100 per commit", move || {
            consume_raw(READ, count)
        }),
        Contender::new("fanfare", move || consume(count)),
        Contender::new("raw cursor, 1,000 per commit", move || {
            consume_raw(LONG_READ, count)
        }),
    ];
    let title = "consume a backlog: read, handle, settle";
    compare(report, title, repetitions, &contenders).await?;
    let count = options.events(END_TO_END);
    let contenders = [
        Contender::new("raw, one commit each, cursor of 1,000", move || {
            end_to_end_raw(count)
        }),
        Contender::new("fanfare", move || end_to_end(count)),
    ];
    let title = format!("end to end, {CALLERS} callers, 1 subscription");
    compare(report, &title, repetitions, &contenders).await?;
    let count = options.events(IDLE);
    let contenders = [
        Contender::new("raw, NOTIFY in the commit", move || idle_raw(count)),
        Contender::new("fanfare", move || idle(count)),
    ];
    let title = "idle: one event every 5 ms, from publish to handler";
    compare(report, title, repetitions, &contenders).await
}

/// Each run has a server of its own, so that none meets what another left.
async fn server() -> Outcome<Broker> {
    Ok(Broker::start(postgres(), Durability::Always).await?)
}

async fn publish_raw(count_callers: usize, count: usize) -> Outcome<Sample> {
    let broker = server().await?;
    let publisher = Publisher::open(&broker.url()).await?;
    callers(count_callers, events(count)?, move |event| {
        publisher.clone().publish(vec![event])
    })
    .await
}

async fn publish(callers: usize, count: usize) -> Outcome<Sample> {
    let broker = server().await?;
    ours::publish(&broker.url(), callers, count).await
}

async fn batches_raw(count_callers: usize, batch: usize, count: usize) -> Outcome<Sample> {
    let broker = server().await?;
    let publisher = Publisher::open(&broker.url()).await?;
    chunks(count_callers, batch, events(count)?, move |events| {
        publisher.clone().publish(events)
    })
    .await
}

async fn batches(callers: usize, batch: usize, count: usize) -> Outcome<Sample> {
    let broker = server().await?;
    ours::publish_batches(&broker.url(), callers, batch, count).await
}

async fn consume_raw(read: i64, count: usize) -> Outcome<Sample> {
    let broker = server().await?;
    let publisher = Publisher::open(&broker.url()).await?;
    chunks(2, 1_000, events(count)?, move |events| {
        publisher.clone().publish(events)
    })
    .await?;
    let mut reader = Reader::open(&broker.url()).await?;
    reader
        .drain(read, |event| {
            black_box(event.bytes());
        })
        .await
}

async fn consume(count: usize) -> Outcome<Sample> {
    let broker = server().await?;
    ours::consume(&broker.url(), count).await
}

async fn end_to_end_raw(count: usize) -> Outcome<Sample> {
    let broker = server().await?;
    let publisher = Publisher::open(&broker.url()).await?;
    let mut reader = Reader::open(&broker.url()).await?;
    let run = Run::begin();
    let reading = tokio::spawn(async move {
        let mut left = count;
        while left > 0 {
            let read = reader.step(LONG_READ, |event| {
                black_box(event.bytes());
            });
            left = left.saturating_sub(read.await?);
        }
        Outcome::Ok(())
    });
    let sent = callers(CALLERS, events(count)?, move |event| {
        publisher.clone().publish(vec![event])
    })
    .await?;
    reading.await??;
    Ok(run.end(count, sent.latencies))
}

async fn end_to_end(count: usize) -> Outcome<Sample> {
    let broker = server().await?;
    ours::end_to_end(&broker.url(), CALLERS, 1, count).await
}

async fn idle_raw(count: usize) -> Outcome<Sample> {
    let broker = server().await?;
    let publisher = Publisher::notifying(&broker.url()).await?;
    let mut reader = Reader::open(&broker.url()).await?;
    let (_listening, told) = listen(&broker.url()).await?;
    let arrived = Arc::new(Notify::new());
    let arriving = Arc::clone(&arrived);
    let reading = tokio::spawn(async move {
        let mut left = count;
        while left > 0 {
            told.notified().await;
            let read = reader.step(READ, |_| arriving.notify_one()).await?;
            left = left.saturating_sub(read);
        }
        Outcome::Ok(())
    });
    let sample = alone(count, move |event| {
        let (publisher, arrived) = (publisher.clone(), Arc::clone(&arrived));
        async move {
            publisher.publish(vec![event]).await?;
            arrived.notified().await;
            Ok(())
        }
    })
    .await?;
    reading.await??;
    Ok(sample)
}

async fn idle(count: usize) -> Outcome<Sample> {
    let broker = server().await?;
    ours::idle(&broker.url(), count).await
}
