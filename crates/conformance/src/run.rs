//! Runs the cases, a bounded number at a time, each on its own stream, and collects the report.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use fanfare_core::capability::Capabilities;
use fanfare_core::clock::Clock;
use futures::{FutureExt, StreamExt, stream};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::case::{Case, Failure, Verdict};
use crate::report::{CaseReport, Outcome, Report};
use crate::saboteur;
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
    /// What the names of all streams begin with: `[a-z0-9_]`, at most 32 bytes. Default a random one: a
    /// broker keeps the streams of the last run.
    pub prefix: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            only: Vec::new(),
            concurrency: 16,
            case_limit: Duration::from_mins(1),
            patience: Duration::from_secs(20),
            seed: None,
            prefix: format!("suite_{:016x}", random()),
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
    let seed = options.seed.unwrap_or_else(random);
    let cases = crate::cases().filter(|case| options.wants(case));
    let reports = stream::iter(cases.enumerate())
        .map(|(number, case)| {
            // None begins like another: a case may have more than one.
            let stream = format!("{}_{number:03}", options.prefix);
            run_case(
                case,
                target.clone(),
                clock.clone(),
                options.clone(),
                stream,
                seed,
            )
        })
        .buffer_unordered(options.concurrency.max(1))
        .collect::<Vec<_>>()
        .await;
    let capabilities = capabilities(&*target, &clock, &options).await;
    let took = clock.now().since(started);
    Report::new(target.name(), capabilities, seed, took, reports)
}

async fn capabilities(
    target: &dyn Target,
    clock: &Clock,
    options: &Options,
) -> Option<Capabilities> {
    let stream = format!("{}_capable", options.prefix);
    let backend = target.open(&stream).await.ok()?;
    let capabilities = backend.capabilities();
    // A backend that does not close has failed its cases already.
    tokio::select! {
        _ = backend.close() => {}
        () = clock.sleep(options.patience) => {}
    }
    target.over(&stream).await;
    Some(capabilities)
}

/// The body of [`suite!`](crate::suite): runs all, prints the report and panics when a case failed.
///
/// `FANFARE_CASES=settle,order::park` runs a part; `FANFARE_SEED` repeats random choices.
/// `FANFARE_SABOTEURS=4` puts the suite itself on trial: every [saboteur](saboteur) over this target, four
/// at a time.
///
/// # Panics
///
/// When a case failed, or let its saboteur pass: that is its answer.
#[expect(clippy::panic, clippy::print_stdout, reason = "the body of a test")]
pub fn check(target: Arc<dyn Target>) {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => panic!("no runtime: {error}"),
    };
    let options = Options::from_env();
    if let Ok(at_a_time) = std::env::var("FANFARE_SABOTEURS") {
        let at_a_time = at_a_time.parse().unwrap_or(1);
        let escaped = runtime.block_on(try_saboteurs(target, options, at_a_time));
        assert!(escaped.is_empty(), "{}", escaped.join("\n"));
        return;
    }
    let report = runtime.block_on(run(target, options));
    println!("{report}");
    let failed: Vec<_> = report.failures().map(|case| case.name).collect();
    assert!(failed.is_empty(), "failed cases: {failed:?}");
}

/// Who was not caught by what, and what fails though nobody is at work.
#[expect(clippy::print_stdout, reason = "the body of a test")]
async fn try_saboteurs(target: Arc<dyn Target>, options: Options, at_a_time: usize) -> Vec<String> {
    let options = Options {
        patience: Duration::from_secs(5),
        case_limit: Duration::from_secs(20),
        ..options
    };
    let (name, mut caught, mut escaped) = (target.name(), 0, Vec::new());
    // As few at a time as the saboteurs, who have as little time: sixteen on a server that writes to its
    // disk may need more, with nobody at work.
    let honest = Options {
        concurrency: at_a_time,
        ..options.clone()
    };
    for report in saboteur::untouched(target.clone(), &honest).await {
        let failures = report.failures();
        escaped.extend(failures.map(|case| format!("nobody was caught by {case:?}")));
    }
    let trials = saboteur::trials(target, &options, at_a_time).await;
    for (saboteur, report) in &trials {
        caught += report.failed;
        let passed = saboteur.escaped(report);
        escaped.extend(passed.map(|case| {
            let (saboteur, topic, case) = (saboteur.name, case.topic, case.name);
            format!("{saboteur} was not caught by {topic}::{case}")
        }));
    }
    println!(
        "{} saboteurs over {name}: caught {caught} times, {} times not",
        trials.len(),
        escaped.len()
    );
    escaped
}

async fn run_case(
    case: &'static Case,
    target: Arc<dyn Target>,
    clock: Clock,
    options: Options,
    stream: String,
    seed: u64,
) -> CaseReport {
    let started = clock.now();
    let limit = options.case_limit;
    let attempt = attempt(case, target.clone(), options, stream.clone(), seed);
    let mut work = JoinSet::new();
    work.spawn(AssertUnwindSafe(attempt).catch_unwind());
    let verdict = tokio::select! {
        Some(joined) = work.join_next() => match joined {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(panic)) => Err(Failure::Broken(format!("panicked: {}", said(&*panic)))),
            Err(error) => Err(Failure::Broken(error.to_string())),
        },
        () = clock.sleep(limit) => {
            work.abort_all();
            Err(Failure::Broken(format!("did not end within {limit:?}")))
        }
    };
    target.over(&stream).await;
    CaseReport {
        topic: case.topic,
        name: case.name,
        promise: case.promise,
        seconds: clock.now().since(started).as_secs_f64(),
        outcome: match verdict {
            Ok(()) => Outcome::Passed,
            Err(Failure::Broken(reason)) => Outcome::Failed { reason },
            Err(Failure::NotOffered(reason)) => Outcome::NotOffered { reason },
            Err(Failure::NotTried(reason)) => Outcome::NotTried { reason },
        },
    }
}

async fn attempt(
    case: &'static Case,
    target: Arc<dyn Target>,
    options: Options,
    stream: String,
    seed: u64,
) -> Verdict {
    let mut stage = Stage::open(target, stream, &options, seed).await?;
    if let Some(reason) = case.missing(&stage.backend.capabilities()) {
        return Err(Failure::NotOffered(reason.into()));
    }
    (case.run)(&mut stage).await?;
    stage.close().await
}

fn random() -> u64 {
    Uuid::now_v7().as_u64_pair().1
}

fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
