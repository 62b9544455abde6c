//! What every backend on a server is measured by, against the raw client of its engine: publishing,
//! consuming a backlog, both at once, and one event when nothing else happens. What the raw client does
//! stands in `floor/`, how much there is to do in the file of the backend.

use std::hint::black_box;
use std::sync::Arc;

use fanfare::core::event::Event;
use fanfare_conformance::broker::Broker;
use tokio::sync::Notify;

use crate::compare::{Contender, compare};
use crate::load::{alone, callers, chunks, events};
use crate::measure::{Run, Sample};
use crate::report::Report;
use crate::{Options, Outcome, machine, ours};

/// Callers of an end-to-end run.
const CALLERS: usize = 256;
/// Events of an idle run.
const IDLE: usize = 400;

/// One way of an engine's raw client to do the work.
pub(crate) trait Raw: Copy + Send + 'static {
    type Publisher: Publish;
    type Reader: Read;

    /// A fresh server: each run has its own, so that none meets what another left.
    async fn server(self) -> Outcome<Broker>;
    /// Comes first, and makes whatever the events are kept in.
    async fn publisher(self, url: &str) -> Outcome<Self::Publisher>;
    async fn reader(self, url: &str) -> Outcome<Self::Reader>;
}

pub(crate) trait Publish: Clone + Send + 'static {
    /// Comes back when all are stored.
    fn publish(self, events: Vec<Event>) -> impl Future<Output = Outcome<()>> + Send;
}

pub(crate) trait Read: Send + 'static {
    /// Reads once, looks at each event, and answers how many there were.
    fn step(
        &mut self,
        handle: impl Fn(&Event) + Send + Sync,
    ) -> impl Future<Output = Outcome<usize>> + Send;

    /// Comes back when the server knows that everything was read.
    fn finish(self) -> impl Future<Output = Outcome<()>> + Send;
}

/// What is measured, by whom. Of several, the first is what the others are measured by.
pub(crate) struct Trial<R> {
    pub(crate) title: String,
    pub(crate) publishers: Vec<(&'static str, R)>,
    pub(crate) readers: Vec<(&'static str, R)>,
    pub(crate) end_to_end: (&'static str, R),
    pub(crate) idle: (&'static str, R),
    pub(crate) amounts: Amounts,
}

/// How many events each run has.
pub(crate) struct Amounts {
    /// For every number of callers.
    pub(crate) publish: [(usize, usize); 4],
    /// Those of one batch, of a run, and callers.
    pub(crate) batches: &'static [(usize, usize, usize)],
    pub(crate) consume: usize,
    pub(crate) end_to_end: usize,
}

impl<R: Raw> Trial<R> {
    pub(crate) async fn run(&self, options: &Options, report: &mut Report) -> Outcome<()> {
        report.section(&self.title);
        report.say(&machine::moment());
        self.publishing(options, report).await?;
        self.consuming(options, report).await
    }

    async fn publishing(&self, options: &Options, report: &mut Report) -> Outcome<()> {
        let (_, raw) = self.end_to_end;
        for (callers, count) in self.amounts.publish {
            let count = options.events(count);
            let contenders = beside(
                &self.publishers,
                move |raw| publish_raw(raw, callers, count),
                move || publish(raw, callers, count),
            );
            let title = format!("publish, {callers} callers");
            compare(report, &title, options.repetitions, &contenders).await?;
        }
        for (batch, count, callers) in self.amounts.batches.iter().copied() {
            let count = options.events(count);
            let contenders = beside(
                &self.publishers,
                move |raw| batches_raw(raw, callers, batch, count),
                move || batches(raw, callers, batch, count),
            );
            let title = format!("publish, {callers} callers, {batch} events at a time");
            compare(report, &title, options.repetitions, &contenders).await?;
        }
        Ok(())
    }

    async fn consuming(&self, options: &Options, report: &mut Report) -> Outcome<()> {
        let repetitions = options.repetitions;
        let (_, raw) = self.end_to_end;
        let count = options.events(self.amounts.consume);
        let contenders = beside(
            &self.readers,
            move |raw| consume_raw(raw, count),
            move || consume(raw, count),
        );
        let title = "consume a backlog: read, handle, settle";
        compare(report, title, repetitions, &contenders).await?;
        let count = options.events(self.amounts.end_to_end);
        let contenders = beside(
            &[self.end_to_end],
            move |raw| end_to_end_raw(raw, count),
            move || end_to_end(raw, count),
        );
        let title = format!("end to end, {CALLERS} callers, 1 subscription");
        compare(report, &title, repetitions, &contenders).await?;
        let count = options.events(IDLE);
        let contenders = beside(
            &[self.idle],
            move |raw| idle_raw(raw, count),
            move || idle(raw, count),
        );
        let title = "idle: one event every 5 ms, from publish to handler";
        compare(report, title, repetitions, &contenders).await
    }
}

/// Ours behind the first of theirs.
fn beside<R: Raw, A, B>(
    theirs: &[(&'static str, R)],
    raw: impl Fn(R) -> A + Copy + 'static,
    ours: impl Fn() -> B + 'static,
) -> Vec<Contender<'static>>
where
    A: Future<Output = Outcome<Sample>> + 'static,
    B: Future<Output = Outcome<Sample>> + 'static,
{
    let theirs = theirs.iter().copied();
    let mut all: Vec<_> = theirs
        .map(|(name, which)| Contender::new(name, move || raw(which)))
        .collect();
    all.insert(all.len().min(1), Contender::new("fanfare", ours));
    all
}

async fn publish_raw(raw: impl Raw, count_callers: usize, count: usize) -> Outcome<Sample> {
    let broker = raw.server().await?;
    let publisher = raw.publisher(&broker.url()).await?;
    callers(count_callers, events(count)?, move |event| {
        publisher.clone().publish(vec![event])
    })
    .await
}

async fn publish(raw: impl Raw, callers: usize, count: usize) -> Outcome<Sample> {
    let broker = raw.server().await?;
    ours::publish(&broker.url(), callers, count).await
}

async fn batches_raw(
    raw: impl Raw,
    count_callers: usize,
    batch: usize,
    count: usize,
) -> Outcome<Sample> {
    let broker = raw.server().await?;
    let publisher = raw.publisher(&broker.url()).await?;
    chunks(count_callers, batch, events(count)?, move |events| {
        publisher.clone().publish(events)
    })
    .await
}

async fn batches(raw: impl Raw, callers: usize, batch: usize, count: usize) -> Outcome<Sample> {
    let broker = raw.server().await?;
    ours::publish_batches(&broker.url(), callers, batch, count).await
}

async fn consume_raw(raw: impl Raw, count: usize) -> Outcome<Sample> {
    let broker = raw.server().await?;
    let publisher = raw.publisher(&broker.url()).await?;
    chunks(4, 100, events(count)?, move |events| {
        publisher.clone().publish(events)
    })
    .await?;
    let run = Run::begin();
    read(raw.reader(&broker.url()).await?, count, look).await?;
    Ok(run.end(count, Vec::new()))
}

async fn consume(raw: impl Raw, count: usize) -> Outcome<Sample> {
    let broker = raw.server().await?;
    ours::consume(&broker.url(), count).await
}

async fn end_to_end_raw(raw: impl Raw, count: usize) -> Outcome<Sample> {
    let broker = raw.server().await?;
    let publisher = raw.publisher(&broker.url()).await?;
    let reader = raw.reader(&broker.url()).await?;
    let run = Run::begin();
    let reading = tokio::spawn(read(reader, count, look));
    let sent = callers(CALLERS, events(count)?, move |event| {
        publisher.clone().publish(vec![event])
    })
    .await?;
    reading.await??;
    Ok(run.end(count, sent.latencies))
}

async fn end_to_end(raw: impl Raw, count: usize) -> Outcome<Sample> {
    let broker = raw.server().await?;
    ours::end_to_end(&broker.url(), CALLERS, 1, count).await
}

async fn idle_raw(raw: impl Raw, count: usize) -> Outcome<Sample> {
    let broker = raw.server().await?;
    let publisher = raw.publisher(&broker.url()).await?;
    let reader = raw.reader(&broker.url()).await?;
    let arrived = Arc::new(Notify::new());
    let arriving = Arc::clone(&arrived);
    let reading = tokio::spawn(read(reader, count, move |_| arriving.notify_one()));
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

async fn idle(raw: impl Raw, count: usize) -> Outcome<Sample> {
    let broker = raw.server().await?;
    ours::idle(&broker.url(), count).await
}

async fn read(
    mut reader: impl Read,
    count: usize,
    handle: impl Fn(&Event) + Send + Sync,
) -> Outcome<()> {
    let mut left = count;
    while left > 0 {
        left = left.saturating_sub(reader.step(&handle).await?);
    }
    reader.finish().await
}

fn look(event: &Event) {
    black_box(event.bytes());
}
