//! The nats backend against the raw client of JetStream on a private server, streams in files. The server
//! acknowledges what the system has; versions that can be told to flush first are not measured here.

use std::hint::black_box;
use std::sync::Arc;

use fanfare_conformance::broker::{Broker, Durability, nats};
use tokio::sync::Notify;

use crate::compare::{Contender, compare};
use crate::floor::nats::{Form, Publisher, Reader};
use crate::load::{alone, callers, chunks, events};
use crate::measure::{Run, Sample};
use crate::report::Report;
use crate::{Options, Outcome, machine, ours};

/// Events of a publishing run, for every number of callers: those are the answers in flight.
const PUBLISH: [(usize, usize); 4] = [(1, 5_000), (64, 50_000), (256, 100_000), (1_024, 150_000)];
/// Events of a run in batches, those of one batch, and callers.
const BATCHES: (usize, usize, usize) = (150_000, 100, 4);
/// Events of a consuming run.
const CONSUME: usize = 150_000;
/// Events of an end-to-end run.
const END_TO_END: usize = 100_000;
/// Callers of an end-to-end run.
const CALLERS: usize = 256;
/// Events of an idle run.
const IDLE: usize = 400;

/// Each run has a server of its own, so that none meets what another left.
pub(crate) async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    report.section("NATS: JetStream in files, one replica");
    report.say(&machine::moment());
    publishing(options, report).await?;
    consuming(options, report).await
}

async fn publishing(options: &Options, report: &mut Report) -> Outcome<()> {
    let repetitions = options.repetitions;
    for (callers, count) in PUBLISH {
        let count = options.events(count);
        let raw = |form| move || publish_raw(form, callers, count);
        let contenders = [
            Contender::new("raw, duplicates recognised", raw(Form::Exact)),
            Contender::new("fanfare", move || publish(callers, count)),
            Contender::new("raw without an id", raw(Form::Bare)),
        ];
        let title = format!("publish, {callers} callers");
        compare(report, &title, repetitions, &contenders).await?;
    }
    let (count, batch, callers) = BATCHES;
    let count = options.events(count);
    let raw = |form| move || batches_raw(form, callers, batch, count);
    let contenders = [
        Contender::new("raw, duplicates recognised", raw(Form::Exact)),
        Contender::new("fanfare", move || batches(callers, batch, count)),
        Contender::new("raw without an id", raw(Form::Bare)),
    ];
    let title = format!("publish, {callers} callers, {batch} events at a time");
    compare(report, &title, repetitions, &contenders).await
}

async fn consuming(options: &Options, report: &mut Report) -> Outcome<()> {
    let repetitions = options.repetitions;
    let count = options.events(CONSUME);
    let contenders = [
        Contender::new("raw, pulls of 1,000, each acknowledged", move || {
            consume_raw(count)
        }),
        Contender::new("fanfare", move || consume(count)),
    ];
    let title = "consume a backlog: read, handle, settle";
    compare(report, title, repetitions, &contenders).await?;
    let count = options.events(END_TO_END);
    let contenders = [
        Contender::new("raw, duplicates recognised", move || end_to_end_raw(count)),
        Contender::new("fanfare", move || end_to_end(count)),
    ];
    let title = format!("end to end, {CALLERS} callers, 1 subscription");
    compare(report, &title, repetitions, &contenders).await?;
    let count = options.events(IDLE);
    let contenders = [
        Contender::new("raw, duplicates recognised", move || idle_raw(count)),
        Contender::new("fanfare", move || idle(count)),
    ];
    let title = "idle: one event every 5 ms, from publish to handler";
    compare(report, title, repetitions, &contenders).await
}

async fn server() -> Outcome<Broker> {
    Ok(Broker::start(nats(), Durability::Periodic).await?)
}

fn url(broker: &Broker) -> String {
    format!("{}?stream=bench", broker.url())
}

async fn publish_raw(form: Form, count_callers: usize, count: usize) -> Outcome<Sample> {
    let broker = server().await?;
    let publisher = Publisher::open(&broker.url(), form).await?;
    callers(count_callers, events(count)?, move |event| {
        publisher.clone().publish(vec![event])
    })
    .await
}

async fn publish(callers: usize, count: usize) -> Outcome<Sample> {
    let broker = server().await?;
    ours::publish(&url(&broker), callers, count).await
}

async fn batches_raw(
    form: Form,
    count_callers: usize,
    batch: usize,
    count: usize,
) -> Outcome<Sample> {
    let broker = server().await?;
    let publisher = Publisher::open(&broker.url(), form).await?;
    chunks(count_callers, batch, events(count)?, move |events| {
        publisher.clone().publish(events)
    })
    .await
}

async fn batches(callers: usize, batch: usize, count: usize) -> Outcome<Sample> {
    let broker = server().await?;
    ours::publish_batches(&url(&broker), callers, batch, count).await
}

async fn consume_raw(count: usize) -> Outcome<Sample> {
    let broker = server().await?;
    let publisher = Publisher::open(&broker.url(), Form::Bare).await?;
    let (_, batch, callers) = BATCHES;
    chunks(callers, batch, events(count)?, move |events| {
        publisher.clone().publish(events)
    })
    .await?;
    let run = Run::begin();
    let mut reader = Reader::open(&broker.url()).await?;
    read(&mut reader, count).await?;
    reader.finish().await?;
    Ok(run.end(count, Vec::new()))
}

async fn read(reader: &mut Reader, count: usize) -> Outcome<()> {
    for _ in 0..count {
        let step = reader.step(|event| {
            black_box(event.bytes());
        });
        step.await?;
    }
    Ok(())
}

async fn consume(count: usize) -> Outcome<Sample> {
    let broker = server().await?;
    ours::consume(&url(&broker), count).await
}

async fn end_to_end_raw(count: usize) -> Outcome<Sample> {
    let broker = server().await?;
    let publisher = Publisher::open(&broker.url(), Form::Exact).await?;
    let mut reader = Reader::open(&broker.url()).await?;
    let run = Run::begin();
    let reading = tokio::spawn(async move {
        read(&mut reader, count).await?;
        reader.finish().await
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
    ours::end_to_end(&url(&broker), CALLERS, 1, count).await
}

async fn idle_raw(count: usize) -> Outcome<Sample> {
    let broker = server().await?;
    let publisher = Publisher::open(&broker.url(), Form::Exact).await?;
    let mut reader = Reader::open(&broker.url()).await?;
    let arrived = Arc::new(Notify::new());
    let arriving = Arc::clone(&arrived);
    let reading = tokio::spawn(async move {
        for _ in 0..count {
            reader.step(|_| arriving.notify_one()).await?;
        }
        reader.finish().await
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
    ours::idle(&url(&broker), count).await
}
