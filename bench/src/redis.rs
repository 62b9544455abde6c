//! The redis backend against raw Redis Streams on a private server, with three settings of durability.

use std::hint::black_box;
use std::sync::Arc;

use fanfare_conformance::broker::{Broker, Durability, redis};
use tokio::sync::Notify;

use crate::compare::{Contender, compare};
use crate::floor::redis::{Form, Publisher, Reader};
use crate::load::{alone, callers, chunks, events};
use crate::measure::{Run, Sample};
use crate::report::Report;
use crate::{Options, Outcome, machine, ours};

/// The settings, and how people call them.
const SETTINGS: [(Durability, &str); 3] = [
    (Durability::Off, "no append-only file"),
    (Durability::Periodic, "appendfsync everysec"),
    (Durability::Always, "appendfsync always"),
];
/// Events of a publishing run, for every number of callers.
const PUBLISH: [(usize, usize); 4] = [(1, 10_000), (64, 100_000), (256, 150_000), (1_024, 200_000)];
/// Events of a run in batches, those of one batch, and callers.
const BATCHES: (usize, usize, usize) = (300_000, 100, 4);
/// Events of a consuming run.
const CONSUME: usize = 300_000;
/// Events of an end-to-end run.
const END_TO_END: usize = 150_000;
/// Callers of an end-to-end run.
const CALLERS: usize = 256;
/// Events of an idle run.
const IDLE: usize = 400;

pub(crate) async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    for (durability, called) in SETTINGS {
        report.section(&format!("Redis: {called}"));
        report.say(&machine::moment());
        Suite {
            options,
            durability,
        }
        .run(report)
        .await?;
    }
    Ok(())
}

/// One setting. Each run has a server of its own, so that none meets what another left.
struct Suite<'a> {
    options: &'a Options,
    durability: Durability,
}

impl Suite<'_> {
    async fn run(&self, report: &mut Report) -> Outcome<()> {
        let durability = self.durability;
        let repetitions = self.options.repetitions;
        for (callers, count) in PUBLISH {
            let count = self.options.events(count);
            let raw = |form| move || publish_raw(durability, form, callers, count);
            let contenders = [
                Contender::new("raw, duplicates recognised", raw(Form::Exact)),
                Contender::new("fanfare", move || publish(durability, callers, count)),
                Contender::new("bare XADD", raw(Form::Bare)),
            ];
            let title = format!("publish, {callers} callers");
            compare(report, &title, repetitions, &contenders).await?;
        }
        let (count, batch, callers) = BATCHES;
        let count = self.options.events(count);
        let raw = |form| move || batches_raw(durability, form, callers, batch, count);
        let contenders = [
            Contender::new("raw, duplicates recognised", raw(Form::Exact)),
            Contender::new("fanfare", move || {
                batches(durability, callers, batch, count)
            }),
            Contender::new("bare XADD", raw(Form::Bare)),
        ];
        let title = format!("publish, {callers} callers, {batch} events at a time");
        compare(report, &title, repetitions, &contenders).await?;
        self.consuming(report).await
    }

    async fn consuming(&self, report: &mut Report) -> Outcome<()> {
        let durability = self.durability;
        let repetitions = self.options.repetitions;
        let count = self.options.events(CONSUME);
        let contenders = [
            Contender::new("raw, XREADGROUP 100 and XACK", move || {
                consume_raw(durability, count)
            }),
            Contender::new("fanfare", move || consume(durability, count)),
        ];
        let title = "consume a backlog: read, handle, settle";
        compare(report, title, repetitions, &contenders).await?;
        let count = self.options.events(END_TO_END);
        let contenders = [
            Contender::new("raw, duplicates recognised", move || {
                end_to_end_raw(durability, count)
            }),
            Contender::new("fanfare", move || end_to_end(durability, count)),
        ];
        let title = format!("end to end, {CALLERS} callers, 1 subscription");
        compare(report, &title, repetitions, &contenders).await?;
        let count = self.options.events(IDLE);
        let contenders = [
            Contender::new("raw, duplicates recognised", move || {
                idle_raw(durability, count)
            }),
            Contender::new("fanfare", move || idle(durability, count)),
        ];
        let title = "idle: one event every 5 ms, from publish to handler";
        compare(report, title, repetitions, &contenders).await
    }
}

/// A server without a log that is rewritten in the middle of a run.
async fn server(durability: Durability) -> Outcome<Broker> {
    let broker = Broker::start(redis(), durability).await?;
    let client = ::redis::Client::open(broker.url())?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let () = ::redis::cmd("CONFIG")
        .arg(&["SET", "auto-aof-rewrite-percentage", "0"])
        .query_async(&mut connection)
        .await?;
    Ok(broker)
}

fn url(broker: &Broker) -> String {
    format!("{}?stream=bench", broker.url())
}

async fn publish_raw(
    durability: Durability,
    form: Form,
    count_callers: usize,
    count: usize,
) -> Outcome<Sample> {
    let broker = server(durability).await?;
    let publisher = Publisher::open(&broker.url(), form).await?;
    callers(count_callers, events(count)?, move |event| {
        publisher.clone().publish(vec![event])
    })
    .await
}

async fn publish(durability: Durability, callers: usize, count: usize) -> Outcome<Sample> {
    let broker = server(durability).await?;
    ours::publish(&url(&broker), callers, count).await
}

async fn batches_raw(
    durability: Durability,
    form: Form,
    count_callers: usize,
    batch: usize,
    count: usize,
) -> Outcome<Sample> {
    let broker = server(durability).await?;
    let publisher = Publisher::open(&broker.url(), form).await?;
    chunks(count_callers, batch, events(count)?, move |events| {
        publisher.clone().publish(events)
    })
    .await
}

async fn batches(
    durability: Durability,
    callers: usize,
    batch: usize,
    count: usize,
) -> Outcome<Sample> {
    let broker = server(durability).await?;
    ours::publish_batches(&url(&broker), callers, batch, count).await
}

async fn consume_raw(durability: Durability, count: usize) -> Outcome<Sample> {
    let broker = server(durability).await?;
    let publisher = Publisher::open(&broker.url(), Form::Bare).await?;
    let (_, batch, callers) = BATCHES;
    chunks(callers, batch, events(count)?, move |events| {
        publisher.clone().publish(events)
    })
    .await?;
    let mut reader = Reader::open(&broker.url()).await?;
    let run = Run::begin();
    read(&mut reader, count).await?;
    reader.finish().await?;
    Ok(run.end(count, Vec::new()))
}

async fn read(reader: &mut Reader, count: usize) -> Outcome<()> {
    let mut left = count;
    while left > 0 {
        let read = reader.step(|event| {
            black_box(event.bytes());
        });
        left = left.saturating_sub(read.await?);
    }
    Ok(())
}

async fn consume(durability: Durability, count: usize) -> Outcome<Sample> {
    let broker = server(durability).await?;
    ours::consume(&url(&broker), count).await
}

async fn end_to_end_raw(durability: Durability, count: usize) -> Outcome<Sample> {
    let broker = server(durability).await?;
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

async fn end_to_end(durability: Durability, count: usize) -> Outcome<Sample> {
    let broker = server(durability).await?;
    ours::end_to_end(&url(&broker), CALLERS, 1, count).await
}

async fn idle_raw(durability: Durability, count: usize) -> Outcome<Sample> {
    let broker = server(durability).await?;
    let publisher = Publisher::open(&broker.url(), Form::Exact).await?;
    let mut reader = Reader::open(&broker.url()).await?;
    let arrived = Arc::new(Notify::new());
    let arriving = Arc::clone(&arrived);
    let reading = tokio::spawn(async move {
        let mut left = count;
        while left > 0 {
            let read = reader.step(|_| arriving.notify_one()).await?;
            left = left.saturating_sub(read);
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

async fn idle(durability: Durability, count: usize) -> Outcome<Sample> {
    let broker = server(durability).await?;
    ours::idle(&url(&broker), count).await
}
