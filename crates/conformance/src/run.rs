//! Runs the cases, a bounded number at a time, each on its own stream, and collects the report.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fanfare_core::capability::Capabilities;
use fanfare_core::clock::Clock;
use futures::{FutureExt, StreamExt, stream};
use uuid::Uuid;

use crate::case::{Case, Failure, Verdict};
use crate::report::{CaseReport, Outcome, Report};
use crate::stage::Stage;
use crate::target::Target;

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Only cases whose `topic::name` contains one of these; all when empty.
    pub only: Vec<String>,
    /// Cases at a time. Default 16.
    pub concurrency: usize,
    /// How long one case may take before it counts as failed. Default 60 s.
    pub case_limit: Duration,
    /// How long a case waits for what must come. Default 20 s.
    pub patience: Duration,
    /// Where random choices begin; a random seed when none.
    pub seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            only: Vec::new(),
            concurrency: 16,
            case_limit: Duration::from_mins(1),
            patience: Duration::from_secs(20),
            seed: None,
        }
    }
}

impl Options {
    fn from_env() -> Self {
        let only = std::env::var("FANFARE_CASES").unwrap_or_default();
        let parts = only.split(',').filter(|part| !part.is_empty());
        let seed = std::env::var("FANFARE_SEED").ok();
        Self {
            only: parts.map(Into::into).collect(),
            seed: seed.and_then(|seed| seed.parse().ok()),
            ..Self::default()
        }
    }

    fn wants(&self, case: &Case) -> bool {
        let full = format!("{}::{}", case.topic, case.name);
        self.only.is_empty() || self.only.iter().any(|part| full.contains(part))
    }
}

/// Runs every wanted case against the target; needs a tokio runtime.
pub async fn run(target: Arc<dyn Target>, options: Options) -> Report {
    let clock = Clock::system();
    let started = clock.now();
    let seed = options
        .seed
        .unwrap_or_else(|| Uuid::now_v7().as_u64_pair().1);
    let cases = crate::cases().filter(|case| options.wants(case));
    let reports = stream::iter(cases)
        .map(|case| run_case(case, target.clone(), clock.clone(), options.clone(), seed))
        .buffer_unordered(options.concurrency.max(1))
        .collect::<Vec<_>>()
        .await;
    let capabilities = capabilities(&*target, &clock, &options, seed).await;
    let took = clock.now().since(started);
    Report::new(target.name(), capabilities, seed, took, reports)
}

async fn capabilities(
    target: &dyn Target,
    clock: &Clock,
    options: &Options,
    seed: u64,
) -> Option<Capabilities> {
    let backend = target.open(&format!("suite_{seed:016x}")).await.ok()?;
    let capabilities = backend.capabilities();
    // A backend that does not close has failed its cases already.
    tokio::select! {
        _ = backend.close() => {}
        () = clock.sleep(options.patience) => {}
    }
    Some(capabilities)
}

/// The body of [`suite!`](crate::suite): runs all, prints the report and panics when a case failed.
///
/// `FANFARE_CASES=settle,order::park` runs a part; `FANFARE_SEED` repeats random choices.
///
/// # Panics
///
/// When a case failed: that is its answer.
#[expect(clippy::panic, clippy::print_stdout, reason = "the body of a test")]
pub fn check(target: Arc<dyn Target>) {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => panic!("no runtime: {error}"),
    };
    let report = runtime.block_on(run(target, Options::from_env()));
    println!("{report}");
    let failed: Vec<_> = report.failures().map(|case| case.name).collect();
    assert!(failed.is_empty(), "failed cases: {failed:?}");
}

async fn run_case(
    case: &'static Case,
    target: Arc<dyn Target>,
    clock: Clock,
    options: Options,
    seed: u64,
) -> CaseReport {
    let started = clock.now();
    let limit = options.case_limit;
    let work = tokio::spawn(AssertUnwindSafe(attempt(case, target, options, seed)).catch_unwind());
    let stop = work.abort_handle();
    let verdict = tokio::select! {
        joined = work => match joined {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(panic)) => Err(Failure::Broken(format!("panicked: {}", said(&*panic)))),
            Err(error) => Err(Failure::Broken(error.to_string())),
        },
        () = clock.sleep(limit) => {
            stop.abort();
            Err(Failure::Broken(format!("did not end within {limit:?}")))
        }
    };
    CaseReport {
        topic: case.topic,
        name: case.name,
        promise: case.promise,
        millis: clock.now().since(started).as_millis(),
        outcome: match verdict {
            Ok(()) => Outcome::Passed,
            Err(Failure::Broken(detail)) => Outcome::Failed { detail },
            Err(Failure::NotOffered(reason)) => Outcome::NotOffered { reason },
        },
    }
}

async fn attempt(
    case: &'static Case,
    target: Arc<dyn Target>,
    options: Options,
    seed: u64,
) -> Verdict {
    static STREAMS: AtomicU64 = AtomicU64::new(0);
    // Names differ between runs too: a broker keeps the streams of the last one.
    let stream = format!(
        "suite_{seed:016x}_{}",
        STREAMS.fetch_add(1, Ordering::Relaxed)
    );
    let mut stage = Stage::open(target, stream, &options, seed).await?;
    if let Some(reason) = case.missing(&stage.backend.capabilities()) {
        return Err(Failure::NotOffered(reason.into()));
    }
    (case.run)(&mut stage).await?;
    stage.close().await
}

fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
