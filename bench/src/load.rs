//! The events of every run, and callers that publish them while each awaits its answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fanfare::core::data::Data;
use fanfare::core::event::Event;
use fanfare::core::event_type::EventType;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::Outcome;
use crate::measure::{Run, Sample, Watch};

/// Between two events when all are idle.
const IDLE: Duration = Duration::from_millis(5);

/// The data of every event: 256 bytes of JSON.
fn payload() -> Bytes {
    let head = r#"{"order":"0190a5e4-3f5b-7d2a-9c41-1f2e3d4c5b6a","total":129900,"note":""#;
    let fill = 256 - head.len() - 2;
    Bytes::from(format!("{head}{}\"}}", "x".repeat(fill)))
}

/// Events with UUIDv7 ids of one type and source, made before the clock starts.
pub(crate) fn events(count: usize) -> Outcome<Vec<Event>> {
    let event_type = EventType::parse("orders.order.placed")?;
    let source: Arc<str> = "/bench".into();
    let content_type: Arc<str> = "application/json".into();
    let data = Data::json(payload());
    let clock = fanfare::core::clock::Clock::system();
    (0..count)
        .map(|_| {
            let event = Event::builder(event_type.clone())
                .source(Arc::clone(&source))
                .content_type(Arc::clone(&content_type))
                .time(clock.now())
                .data(data.clone());
            Ok(event.build()?)
        })
        .collect()
}

/// `callers` tasks share the events; each publishes one, awaits its answer, and goes on.
pub(crate) async fn callers<F>(
    callers: usize,
    events: Vec<Event>,
    publish: impl Fn(Event) -> F + Clone + Send + 'static,
) -> Outcome<Sample>
where
    F: Future<Output = Outcome<()>> + Send + 'static,
{
    let count = events.len();
    let shares = shares(events, callers);
    let run = Run::begin();
    let mut tasks = JoinSet::new();
    for share in shares {
        let publish = publish.clone();
        tasks.spawn(async move {
            // A histogram for every caller would push the work out of the caches.
            let mut taken = Vec::with_capacity(share.len());
            for event in share {
                let watch = Watch::start();
                publish(event).await?;
                taken.push(nanos(watch));
            }
            Outcome::Ok(taken)
        });
    }
    let mut taken = Vec::with_capacity(callers);
    while let Some(share) = tasks.join_next().await {
        taken.push(share??);
    }
    Ok(run.end(count, taken))
}

/// The same with batches of `batch` events.
pub(crate) async fn chunks<F>(
    callers: usize,
    batch: usize,
    events: Vec<Event>,
    publish: impl Fn(Vec<Event>) -> F + Clone + Send + 'static,
) -> Outcome<Sample>
where
    F: Future<Output = Outcome<()>> + Send + 'static,
{
    let count = events.len();
    let batches = events.chunks(batch).map(<[Event]>::to_vec).collect();
    let run = Run::begin();
    let mut tasks = JoinSet::new();
    for share in shares(batches, callers) {
        let publish = publish.clone();
        tasks.spawn(async move {
            let mut taken = Vec::with_capacity(share.len());
            for batch in share {
                let watch = Watch::start();
                publish(batch).await?;
                taken.push(nanos(watch));
            }
            Outcome::Ok(taken)
        });
    }
    let mut taken = Vec::with_capacity(callers);
    while let Some(share) = tasks.join_next().await {
        taken.push(share??);
    }
    Ok(run.end(count, taken))
}

/// One event every few milliseconds, and nothing else: what one takes when all are idle.
pub(crate) async fn alone<F>(
    count: usize,
    publish: impl Fn(Event) -> F + Clone + Send + 'static,
) -> Outcome<Sample>
where
    F: Future<Output = Outcome<()>> + Send + 'static,
{
    let events = events(count)?;
    let run = Run::begin();
    let mut every = tokio::time::interval(IDLE);
    let mut taken = Vec::with_capacity(count);
    for event in events {
        every.tick().await;
        let watch = Watch::start();
        publish(event).await?;
        taken.push(nanos(watch));
    }
    Ok(run.end(count, vec![taken]))
}

/// Publishes at a steady rate whatever the answers take, one event a millisecond; latencies count
/// from the moment an event was due.
pub(crate) async fn paced<F>(
    count: usize,
    publish: impl Fn(Event) -> F + Clone + Send + 'static,
) -> Outcome<Sample>
where
    F: Future<Output = Outcome<()>> + Send + 'static,
{
    let events = events(count)?;
    let run = Run::begin();
    let mut tasks = JoinSet::new();
    let mut every = tokio::time::interval(Duration::from_millis(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for event in events {
        let due = every.tick().await;
        let publish = publish.clone();
        tasks.spawn(async move {
            publish(event).await?;
            Outcome::Ok(due.elapsed())
        });
    }
    let mut taken = Vec::with_capacity(count);
    while let Some(late) = tasks.join_next().await {
        taken.push(as_nanos(late??));
    }
    Ok(run.end(count, vec![taken]))
}

fn shares<T>(work: Vec<T>, count: usize) -> Vec<Vec<T>> {
    let mut shares: Vec<Vec<T>> = (0..count).map(|_| Vec::new()).collect();
    let mut next = 0;
    for piece in work {
        if let Some(share) = shares.get_mut(next) {
            share.push(piece);
        }
        next = (next + 1) % count;
    }
    shares
}

/// Nanoseconds on the watch.
pub(crate) fn nanos(watch: Watch) -> u64 {
    as_nanos(watch.elapsed())
}

fn as_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Counts what handlers did and tells when all is done.
#[derive(Clone)]
pub(crate) struct Countdown(Arc<(AtomicU64, Notify)>);

impl Countdown {
    pub(crate) fn of(count: usize) -> Self {
        Self(Arc::new((AtomicU64::new(count as u64), Notify::new())))
    }

    /// One more is done.
    pub(crate) fn tick(&self) {
        let (left, done) = &*self.0;
        if left.fetch_sub(1, Ordering::AcqRel) == 1 {
            done.notify_one();
        }
    }

    /// Waits for the last one.
    pub(crate) async fn done(&self) {
        self.0.1.notified().await;
    }
}
