//! `fanfare bench`: how fast the user's own backend publishes and delivers, beside what its disk can
//! do at all. A first impression; the comparisons that count are in `bench/`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fanfare::Bus;
use fanfare::address::Address;
use fanfare::core::clock::Clock;
use fanfare::core::data::Data;
use fanfare::core::event::Event;
use fanfare::core::event_type::EventType;
use fanfare::core::subscription::Start;
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::args::Common;
use crate::failure::{Failure, Result};
use crate::output::{Output, Table, note};
use crate::scratch::Scratch;
use crate::signals::Stop;

/// How long the disk is asked to flush, one write at a time.
const FLUSH_FOR: Duration = Duration::from_secs(1);
/// Latencies above a minute are counted as a minute.
const LONGEST_MICROS: u64 = 60_000_000;
/// How long the end waits for handlers.
const GRACE: Duration = Duration::from_secs(5);

/// Measure a backend.
#[derive(Debug, clap::Args)]
pub(crate) struct Bench {
    /// The backend: sqlite:DIR, memory:, redis://HOST or postgres://HOST/DATABASE. What is written is
    /// removed at the end.
    #[arg(value_name = "URL")]
    backend: String,
    /// Events in total.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    events: u32,
    /// Publishers at once, each waiting for the durable acknowledgement.
    #[arg(long, short, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    publishers: u16,
    /// Bytes of data in an event.
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(2..=262_144))]
    size: u32,
}

/// One phase's figures.
#[derive(Debug, Serialize)]
struct Phase {
    what: &'static str,
    count: u64,
    seconds: f64,
    per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<Latency>,
}

/// Percentiles in microseconds.
#[derive(Debug, Serialize)]
struct Latency {
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

impl Bench {
    /// Publishes, then delivers, then asks the disk.
    pub(crate) async fn run(self, common: &Common) -> Result<()> {
        let out = common.output();
        let address = Address::parse(&self.backend)?;
        let shown = address.to_string();
        let scratch = Scratch::beside(address)?;
        if cfg!(debug_assertions) {
            note("this is a debug build; figures mean little");
        }
        let mut stop = Stop::listen()?;
        let measured = tokio::select! {
            measured = self.measure(&scratch) => measured,
            () = stop.wait() => Err(Failure::failed("interrupted")),
        };
        let removed = scratch.remove().await;
        show(out, &shown, &measured?)?;
        removed.map_err(|failure| failure.with_context(&scratch.left()))
    }

    async fn measure(&self, scratch: &Scratch) -> Result<Vec<Phase>> {
        let stream = format!("{}_bench", scratch.prefix());
        let backend = scratch.open(&stream, scratch.stream(&stream)).await?;
        let bus = Bus::builder(backend).build()?;
        let mut phases = vec![self.publish(&bus).await?, self.deliver(&bus).await?];
        bus.shutdown(GRACE).await?;
        if let Some(dir) = scratch.dir() {
            phases.push(flush(dir.join("flush"), bus.clock().clone()).await?);
        }
        Ok(phases)
    }

    async fn publish(&self, bus: &Bus) -> Result<Phase> {
        let event_type = EventType::parse("bench.published")?;
        let filler = "x".repeat(
            usize::try_from(self.size)
                .unwrap_or_default()
                .saturating_sub(2),
        );
        let data = Data::json(format!("\"{filler}\"").into_bytes());
        let left = Semaphore::new(usize::try_from(self.events).unwrap_or(usize::MAX));
        let clock = bus.clock().clone();
        let started = clock.now();
        let publishers = (0..self.publishers).map(|_| async {
            let mut latencies = latencies()?;
            while let Ok(permit) = left.try_acquire() {
                permit.forget();
                let event = Event::builder(event_type.clone())
                    .source("/bench")
                    .content_type("application/json")
                    .data(data.clone());
                let sent = clock.now();
                bus.publish(event).await?;
                latencies.saturating_record(micros(clock.now().since(sent)));
            }
            Ok::<_, Failure>(latencies)
        });
        let mut all = latencies()?;
        for one in try_join_all(publishers).await? {
            all.add(one)
                .map_err(|error| Failure::failed(format!("cannot add up: {error}")))?;
        }
        let took = clock.now().since(started);
        Ok(Phase::new(
            "publish, acknowledged",
            all.len(),
            took,
            Some(&all),
        ))
    }

    async fn deliver(&self, bus: &Bus) -> Result<Phase> {
        let handled = Arc::new(Semaphore::new(0));
        let started = bus.clock().now();
        let counter = Arc::clone(&handled);
        bus.subscribe("bench", "bench.**")
            .start(Start::Earliest)
            .concurrency(64)
            .handle(move || {
                counter.add_permits(1);
                async {}
            })
            .await?;
        let all = handled
            .acquire_many(self.events)
            .await
            .map_err(|error| Failure::failed(error.to_string()))?;
        let took = bus.clock().now().since(started);
        drop(all);
        let count = u64::from(self.events);
        Ok(Phase::new("deliver to a handler", count, took, None))
    }
}

impl Phase {
    fn new(
        what: &'static str,
        count: u64,
        took: Duration,
        latencies: Option<&Histogram<u64>>,
    ) -> Self {
        let seconds = took.as_secs_f64().max(f64::EPSILON);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let per_second = count as f64 / seconds;
        Self {
            what,
            count,
            seconds,
            per_second,
            latency: latencies.map(|latencies| Latency {
                p50: latencies.value_at_quantile(0.5),
                p99: latencies.value_at_quantile(0.99),
                p999: latencies.value_at_quantile(0.999),
                max: latencies.max(),
            }),
        }
    }
}

/// What the disk does when each write waits for its own flush.
async fn flush(path: impl AsRef<Path> + Send + 'static, clock: Clock) -> Result<Phase> {
    let work = move || -> Result<Phase> {
        use std::io::Write;
        let mut file = std::fs::File::create(path)?;
        let mut latencies = latencies()?;
        let started = clock.now();
        while clock.now().since(started) < FLUSH_FOR {
            let sent = clock.now();
            file.write_all(&[0; 512])?;
            file.sync_data()?;
            latencies.saturating_record(micros(clock.now().since(sent)));
        }
        let took = clock.now().since(started);
        Ok(Phase::new(
            "raw: one flush a write",
            latencies.len(),
            took,
            Some(&latencies),
        ))
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::failed(error.to_string()))?
}

fn latencies() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, LONGEST_MICROS, 3)
        .map_err(|error| Failure::failed(format!("cannot measure: {error}")))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn show(out: Output, backend: &str, phases: &[Phase]) -> Result<()> {
    if out.json() {
        return out.object(&serde_json::json!({ "backend": backend, "phases": phases }));
    }
    let mut table = Table::new(&[
        "PHASE",
        "#EVENTS",
        "#SECONDS",
        "#PER SECOND",
        "#P50 us",
        "#P99 us",
        "#P99.9 us",
        "#MAX us",
        "#RATIO",
    ]);
    // Everything is compared with the disk where there is one, else with publishing.
    let base = phases.iter().find(|phase| phase.what.starts_with("raw"));
    let base = base
        .or(phases.first())
        .map_or(1.0, |phase| phase.per_second);
    for phase in phases {
        let micros = |of: fn(&Latency) -> u64| {
            let latency = phase.latency.as_ref();
            latency.map_or(String::new(), |latency| of(latency).to_string())
        };
        table.row([
            phase.what,
            &phase.count.to_string(),
            &format!("{:.2}", phase.seconds),
            &format!("{:.0}", phase.per_second),
            &micros(|latency| latency.p50),
            &micros(|latency| latency.p99),
            &micros(|latency| latency.p999),
            &micros(|latency| latency.max),
            &format!("{:.1}", phase.per_second / base),
        ]);
    }
    out.line(&out.paint(crate::output::Tone::Plain, backend))?;
    out.table(&table)
}
