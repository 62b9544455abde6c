//! Fanfare's side of every comparison, on any backend: publish, consume through router and handler,
//! both at once, and one event at a time.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fanfare::bus::{Bus, Raw};
use fanfare::core::event::Event;
use fanfare::core::id::EventId;
use fanfare::core::subscription::Start;
use tokio::sync::Notify;

use crate::Outcome;
use crate::load::{Countdown, alone, callers, chunks, events, paced};
use crate::measure::{Run, Sample};

/// Handlers at once.
const HANDLERS: usize = 32;
/// How long a run may take to drain.
const GRACE: Duration = Duration::from_mins(2);
/// Callers that fill the log before it is consumed.
const FILLERS: usize = 1_024;

/// Every caller publishes one event, awaits its answer, and goes on.
pub(crate) async fn publish(url: &str, count_callers: usize, count: usize) -> Outcome<Sample> {
    let bus = fanfare::connect(url).await?;
    let sample = publish_on(&bus, count_callers, count).await?;
    bus.shutdown(GRACE).await?;
    Ok(sample)
}

/// The same with `publish_all`.
pub(crate) async fn publish_batches(
    url: &str,
    count_callers: usize,
    batch: usize,
    count: usize,
) -> Outcome<Sample> {
    let bus = fanfare::connect(url).await?;
    let publisher = bus.clone();
    let sample = chunks(count_callers, batch, events(count)?, move |events| {
        let bus = publisher.clone();
        async move {
            for published in bus.publish_all(events).await? {
                published?;
            }
            Ok(())
        }
    })
    .await?;
    bus.shutdown(GRACE).await?;
    Ok(sample)
}

/// At a steady rate.
pub(crate) async fn paced_publish(url: &str, count: usize) -> Outcome<Sample> {
    let bus = fanfare::connect(url).await?;
    let publisher = bus.clone();
    let sample = paced(count, move |event| publish_one(publisher.clone(), event)).await?;
    bus.shutdown(GRACE).await?;
    Ok(sample)
}

/// The same; latencies are those of the handler, which tells the publisher's task that waits for it.
pub(crate) async fn paced_to_handler(url: &str, count: usize) -> Outcome<Sample> {
    let bus = fanfare::connect(url).await?;
    let arrivals = Arrivals::default();
    arrivals.subscribe(&bus).await?;
    let publisher = bus.clone();
    let sample = paced(count, move |event| {
        arrivals.clone().see(publisher.clone(), event)
    })
    .await?;
    bus.shutdown(GRACE).await?;
    Ok(sample)
}

/// One event at a time, when nothing else happens, until the handler has it.
pub(crate) async fn idle(url: &str, count: usize) -> Outcome<Sample> {
    let bus = fanfare::connect(url).await?;
    let arrivals = Arrivals::default();
    arrivals.subscribe(&bus).await?;
    let publisher = bus.clone();
    let sample = alone(count, move |event| {
        arrivals.clone().see(publisher.clone(), event)
    })
    .await?;
    bus.shutdown(GRACE).await?;
    Ok(sample)
}

/// A backlog: from the first delivery asked for until every settlement is durable.
pub(crate) async fn consume(url: &str, count: usize) -> Outcome<Sample> {
    // The subscription is there before its events: not every broker keeps those that nobody wanted.
    let bus = fanfare::connect(url).await?;
    subscribe(&bus, "bench", &Countdown::of(count)).await?;
    bus.shutdown(GRACE).await?;
    let bus = fanfare::connect(url).await?;
    publish_on(&bus, FILLERS, count).await?;
    let done = Countdown::of(count);
    let run = Run::begin();
    subscribe(&bus, "bench", &done).await?;
    done.done().await;
    bus.shutdown(GRACE).await?;
    Ok(run.end(count, Vec::new()))
}

/// From the first publish until every settlement of every subscription is durable.
pub(crate) async fn end_to_end(
    url: &str,
    count_callers: usize,
    subscriptions: usize,
    count: usize,
) -> Outcome<Sample> {
    let bus = fanfare::connect(url).await?;
    let done = Countdown::of(count * subscriptions);
    for number in 0..subscriptions {
        subscribe(&bus, &format!("bench{number}"), &done).await?;
    }
    let run = Run::begin();
    let sent = publish_on(&bus, count_callers, count).await?;
    done.done().await;
    bus.shutdown(GRACE).await?;
    Ok(run.end(count, sent.latencies))
}

async fn publish_on(bus: &Bus, count_callers: usize, count: usize) -> Outcome<Sample> {
    let bus = bus.clone();
    callers(count_callers, events(count)?, move |event| {
        publish_one(bus.clone(), event)
    })
    .await
}

async fn publish_one(bus: Bus, event: Event) -> Outcome<()> {
    bus.publish(event).await?;
    Ok(())
}

async fn subscribe(bus: &Bus, name: &str, done: &Countdown) -> Outcome<()> {
    let counting = Arc::new(done.clone());
    bus.subscribe(name, "orders.**")
        .start(Start::Earliest)
        .concurrency(HANDLERS)
        .handle(move |event: Raw| {
            let counting = Arc::clone(&counting);
            async move {
                black_box(&event);
                counting.tick();
            }
        })
        .await?;
    Ok(())
}

/// Who waits for which event to reach the handler.
#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<HashMap<EventId, Arc<Notify>>>>);

impl Arrivals {
    async fn subscribe(&self, bus: &Bus) -> Outcome<()> {
        let arrivals = self.clone();
        bus.subscribe("bench", "orders.**")
            .concurrency(HANDLERS)
            .handle(move |event: Event| {
                let waiter = arrivals.waiting().remove(event.id());
                async move {
                    if let Some(waiter) = waiter {
                        waiter.notify_one();
                    }
                }
            })
            .await?;
        Ok(())
    }

    /// Publishes, and waits for the handler.
    async fn see(self, bus: Bus, event: Event) -> Outcome<()> {
        let waiter = Arc::new(Notify::new());
        self.waiting()
            .insert(event.id().clone(), Arc::clone(&waiter));
        publish_one(bus, event).await?;
        waiter.notified().await;
        Ok(())
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<EventId, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
