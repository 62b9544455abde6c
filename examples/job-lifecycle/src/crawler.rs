//! The service that owns the jobs: it hears of sources on the stream, keeps a job for each that is
//! enabled, runs what is due, and answers for it over HTTP.

pub mod api;
pub mod fetch;
pub mod follow;
pub mod handler;
pub mod jobs;
pub mod metrics;
pub mod reconcile;
pub mod worker;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fanfare::bus::Unhandled;
use fanfare::core::clock::Clock;
use fanfare::core::retry::RetryPolicy;
use fanfare::core::subscription::Start;
use fanfare::{Bus, core};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::database::{self, Migration};
use crate::settings::{Crawler, Handling};
use crate::{Failure, http, redis_stream};
use api::Service;
use follow::Follow;
use handler::LogOnly;
use jobs::Jobs;
use reconcile::Reconciler;

/// The consumer group of the crawlers.
pub const GROUP: &str = "crawler-workers";
/// The group of those that only log: what they acknowledge is still new to the others.
pub const DARK_GROUP: &str = "crawler-workers-dark";
/// How often an event is tried; then it is a dead letter.
pub const ATTEMPTS: u32 = 10;
/// Events handled at once, each of another source.
const HANDLERS: usize = 8;
/// How long what is under way may take at the end.
const GRACE: Duration = Duration::from_secs(10);

/// The schema of the jobs.
pub const MIGRATIONS: [Migration; 1] = [Migration {
    version: 1,
    up: include_str!("../migrations/crawler/0001_jobs.up.sql"),
    down: include_str!("../migrations/crawler/0001_jobs.down.sql"),
}];

/// Runs the service until `stop`.
pub async fn run(
    settings: Crawler,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Failure> {
    let pool = database::pool(&settings.database)?;
    database::migrate_up(&mut *pool.get().await?, &MIGRATIONS).await?;
    let jobs = Jobs::new(pool);
    let grace = settings.reconcile_grace;
    let reconciler = Reconciler::new(jobs.clone(), &settings.source_manager, grace)?;
    let stream = Arc::new(OnceLock::new());
    let service = Service {
        jobs: jobs.clone(),
        reconciler: reconciler.clone(),
        stream: stream.clone(),
    };
    let (stopping, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for _ in 0..worker::WORKERS {
        tasks.spawn(worker::work(jobs.clone(), stopped.clone()));
    }
    let every = settings.reconcile_every;
    tasks.spawn(keep_tidy(reconciler, jobs.clone(), every, stopped));
    let listen = settings.listen.clone();
    let following = tokio::spawn(async move {
        let following = follow(&settings, jobs, &stream).await;
        following.inspect_err(|error| tracing::error!(%error, "jobs do not follow their sources"))
    });
    http::serve(&listen, api::router(service), stop).await?;
    redis_stream::close(following, GRACE).await?;
    stopping.send_replace(true);
    tasks.join_all().await;
    Ok(())
}

/// Hears of sources, from now on; waits for Redis where it is away.
async fn follow(settings: &Crawler, jobs: Jobs, at: &OnceLock<Bus>) -> core::Result<Option<Bus>> {
    if !settings.events.enabled {
        return Ok(None);
    }
    let group = match settings.handling {
        Handling::Jobs => GROUP,
        Handling::Log => DARK_GROUP,
    };
    let stream = redis_stream::open(&settings.events.as_member_of(group)).await?;
    let subscription = stream
        .subscribe(group, "**")
        .start(Start::Earliest)
        .ordered()
        .concurrency(HANDLERS)
        .lease(settings.events.lease)
        .retry(RetryPolicy::fixed(ATTEMPTS, settings.retry_delay))
        .unhandled(Unhandled::Ack);
    match settings.handling {
        Handling::Jobs => subscription.router(handler::routes(Follow(jobs))).await?,
        Handling::Log => subscription.router(handler::routes(LogOnly)).await?,
    };
    Ok(Some(at.get_or_init(|| stream).clone()))
}

/// Reconciles, and forgets what is old, again and again until `stop`.
async fn keep_tidy(
    reconciler: Reconciler,
    jobs: Jobs,
    every: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let clock = Clock::system();
    loop {
        tokio::select! {
            () = clock.sleep(every) => {}
            _ = stop.changed() => return,
        }
        let tidied = async {
            reconciler.reconcile().await?;
            jobs.clean_up().await
        };
        if let Err(error) = tidied.await {
            tracing::warn!(%error, "cannot reconcile");
        }
    }
}
