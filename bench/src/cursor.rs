//! What a claim and its settlement cost behind backlogs of 1,000 to 10,000,000 events of which one
//! in a hundred waits an hour for its retry: it must not grow with the backlog.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fanfare::core::backend::Backend;
use fanfare::core::consumer::{Consumer, Member, MemberKind};
use fanfare::core::delivery::{Delivery, Receipt, Settlement};
use fanfare::core::pattern::PatternSet;
use fanfare::core::subscription::{Start, SubscriptionName, SubscriptionSpec};
use rusqlite::{Connection, OpenFlags};

use crate::load::{events, nanos};
use crate::measure::{Latencies, Watch, latencies, resident_mib};
use crate::report::{Report, grouped};
use crate::{Options, Outcome};

/// Events of one claim.
const CLAIM: usize = 100;
/// Events of one publish while the backlog is made.
const BATCH: usize = 1_000;
/// Claims that are measured at each end of the backlog.
const MEASURED: usize = 200;
/// One in so many events is put off for an hour.
const PUT_OFF: u128 = 100;
/// How long a put-off event waits.
const AN_HOUR: Duration = Duration::from_hours(1);
/// How long a claim may wait for events that are there.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    report.section("SQLite: a claim of 100 and its settlement behind a backlog");
    let mut sizes = vec![1_000, 10_000, 100_000, 1_000_000];
    if options.huge {
        sizes.push(10_000_000);
    }
    let mut rows = Vec::new();
    for size in sizes {
        rows.push(behind(options, size).await?);
    }
    report.say(
        "1 % of the events are settled by a retry in an hour. First and last: the median round of \
         claim and settlement, awaited until it is durable, of 100 events at either end of the \
         backlog; late: the same when the whole backlog is settled or waits.",
    );
    let head = [
        "backlog",
        "us first",
        "us last",
        "us late",
        "p99 us",
        "exceptions",
        "WAL MiB",
        "log MiB",
        "RSS MiB",
        "drain events/s",
    ];
    report.table(&head, &rows);
    Ok(())
}

async fn behind(options: &Options, size: usize) -> Outcome<Vec<String>> {
    let dir = options.fresh_dir()?;
    let data = dir.path().join("data");
    let backend = fanfare::backend(&format!("sqlite:{}", data.display())).await?;
    let name = SubscriptionName::parse("bench")?;
    let mut spec = SubscriptionSpec::new(name.clone(), PatternSet::parse(["orders.**"])?);
    spec.start = Start::Earliest;
    backend.admin().put(&spec).await?;
    fill(&backend, size).await?;
    let member = Member {
        name: "bench".into(),
        kind: MemberKind::Embedded,
    };
    let consumer = backend.consume(&name, member).await?;
    let mut rounds = Rounds::default();
    let watch = Watch::start();
    rounds.drain(&consumer, size).await?;
    let drained = size as f64 / watch.elapsed().as_secs_f64();
    fill(&backend, MEASURED * CLAIM).await?;
    let mut late = Rounds::default();
    late.drain(&consumer, MEASURED * CLAIM).await?;
    let exceptions = exceptions(&data)?;
    let row = vec![
        grouped(size as f64),
        grouped(micros(&rounds.first)),
        grouped(micros(&rounds.last())),
        grouped(micros(&late.all)),
        grouped(late.all.value_at_percentile(99.0) as f64 / 1e3),
        grouped(exceptions as f64),
        format!("{:.1}", mib(&data, "-wal")),
        format!("{:.0}", mib(&data, ".db")),
        resident_mib().to_string(),
        grouped(drained),
    ];
    consumer.close().await?;
    backend.close().await?;
    Ok(row)
}

async fn fill(backend: &Arc<dyn Backend>, count: usize) -> Outcome<()> {
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        for published in backend.publish(&events(batch)?).await? {
            published?;
        }
        left -= batch;
    }
    Ok(())
}

/// The time of each round of claim and settlement.
struct Rounds {
    all: Latencies,
    first: Latencies,
    recent: std::collections::VecDeque<u64>,
}

impl Default for Rounds {
    fn default() -> Self {
        Self {
            all: latencies(),
            first: latencies(),
            recent: std::collections::VecDeque::new(),
        }
    }
}

impl Rounds {
    async fn drain(&mut self, consumer: &Arc<dyn Consumer>, count: usize) -> Outcome<()> {
        let mut left = count;
        while left > 0 {
            let watch = Watch::start();
            let deliveries = consumer.receive(CLAIM.min(left), PATIENCE).await?;
            if deliveries.is_empty() {
                return Err(format!("{left} events never came").into());
            }
            left -= deliveries.len();
            consumer
                .settle(deliveries.iter().map(settlement).collect())
                .await?;
            self.record(nanos(watch));
        }
        Ok(())
    }

    fn record(&mut self, nanos: u64) {
        self.all.saturating_record(nanos);
        if self.first.len() < MEASURED as u64 {
            self.first.saturating_record(nanos);
        }
        if self.recent.len() == MEASURED {
            self.recent.pop_front();
        }
        self.recent.push_back(nanos);
    }

    fn last(&self) -> Latencies {
        let mut last = latencies();
        for nanos in &self.recent {
            last.saturating_record(*nanos);
        }
        last
    }
}

fn settlement(delivery: &Delivery) -> (Receipt, Settlement) {
    let settlement = if delivery.position.0.is_multiple_of(PUT_OFF) {
        Settlement::Retry {
            after: AN_HOUR,
            error: "the other side is down".into(),
        }
    } else {
        Settlement::Ack
    };
    (delivery.receipt, settlement)
}

fn micros(taken: &Latencies) -> f64 {
    taken.value_at_percentile(50.0) as f64 / 1e3
}

/// The rows that the subscription keeps below its frontier.
fn exceptions(data: &Path) -> Outcome<i64> {
    for entry in std::fs::read_dir(data)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "db") {
            let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            return Ok(db.query_row("SELECT count(*) FROM exception", [], |row| row.get(0))?);
        }
    }
    Err("no database was made".into())
}

/// The size of the files in `data` whose names end so.
fn mib(data: &Path, ending: &str) -> f64 {
    let entries = std::fs::read_dir(data).into_iter().flatten().flatten();
    let bytes: u64 = entries
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(ending))
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.len())
        .sum();
    bytes as f64 / f64::from(1 << 20)
}
