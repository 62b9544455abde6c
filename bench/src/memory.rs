//! The in-memory backend: publish to handler, through bus, router and settlement, against a channel.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use fanfare::bus::{Bus, Raw};
use fanfare::core::event::Event;

use crate::compare::{Contender, compare};
use crate::load::{Countdown, callers, events};
use crate::measure::{Run, Sample};
use crate::report::Report;
use crate::{Options, Outcome, floor};

/// Events of one run.
const EVENTS: usize = 400_000;
/// Events of one `publish_all`.
const BATCH: usize = 100;
/// How long a run may take to drain.
const GRACE: Duration = Duration::from_mins(1);

pub(crate) async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    report.section("Memory: publish to handler");
    let count = options.events(EVENTS);
    for publishers in [1, 64, 256] {
        let contenders = [
            Contender::new("tokio channel", move || raw(publishers, count)),
            Contender::new("fanfare", move || fanfare(publishers, count)),
        ];
        let title = format!("{publishers} publishers, one event at a time");
        compare(report, &title, options.repetitions, &contenders).await?;
    }
    let contenders = [
        Contender::new("tokio channel", move || raw(2, count)),
        Contender::new("fanfare", move || batched(2, count)),
    ];
    let title = format!("2 publishers, {BATCH} events at a time");
    compare(report, &title, options.repetitions, &contenders).await
}

async fn raw(publishers: usize, count: usize) -> Outcome<Sample> {
    floor::channel::run(publishers, events(count)?).await
}

async fn fanfare(publishers: usize, count: usize) -> Outcome<Sample> {
    let events = events(count)?;
    let (bus, done) = subscribed(count).await?;
    let run = Run::begin();
    let publisher = bus.clone();
    let sent = callers(publishers, events, move |event| {
        let bus = publisher.clone();
        async move {
            bus.publish(event).await?;
            Ok(())
        }
    })
    .await?;
    done.done().await;
    let sample = run.end(count, sent.latencies);
    bus.shutdown(GRACE).await?;
    Ok(sample)
}

async fn batched(publishers: usize, count: usize) -> Outcome<Sample> {
    let events = events(count)?;
    let (bus, done) = subscribed(count).await?;
    let batches: Vec<Vec<Event>> = events.chunks(BATCH).map(<[Event]>::to_vec).collect();
    let batches = Arc::new(batches);
    let run = Run::begin();
    let mut tasks = tokio::task::JoinSet::new();
    for publisher in 0..publishers {
        let (bus, batches) = (bus.clone(), Arc::clone(&batches));
        tasks.spawn(async move {
            for batch in batches.iter().skip(publisher).step_by(publishers) {
                bus.publish_all(batch.clone()).await?;
            }
            Outcome::Ok(())
        });
    }
    while let Some(finished) = tasks.join_next().await {
        finished??;
    }
    done.done().await;
    let sample = run.end(count, Vec::new());
    bus.shutdown(GRACE).await?;
    Ok(sample)
}

async fn subscribed(count: usize) -> Outcome<(Bus, Countdown)> {
    let bus = fanfare::connect("memory:").await?;
    let done = Countdown::of(count);
    let counting = done.clone();
    bus.subscribe("bench", "orders.**")
        .concurrency(32)
        .handle(move |event: Raw| {
            let counting = counting.clone();
            async move {
                black_box(&event);
                counting.tick();
            }
        })
        .await?;
    Ok((bus, done))
}
