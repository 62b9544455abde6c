//! For tests of programs that use the bus: a bus whose `publish` returns when its handlers are
//! done, a clock that is moved by hand, and assertions on what was published. The runtime under
//! it is the real one, on whatever backend the test opened.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use fanfare_core::Result;
use fanfare_core::backend::{Backend, Published};
use fanfare_core::clock::Clock;
use fanfare_core::dead_letter::{DeadLetter, DeadLetterFilter};
use fanfare_core::error::{Error, ErrorKind};
use fanfare_core::event::Event;
use fanfare_core::history::EventQuery;
use fanfare_core::timestamp::Timestamp;

use crate::bus::{Bus, BusBuilder};
use crate::event::IntoEvent;
use crate::subscribe::IntoPatterns;

/// How far the clock is moved at once while a delivery waits for its retry.
const STEP: Duration = Duration::from_secs(1);
/// How many steps [`TestBus::quiet`] takes before it gives up: about an hour of the test's time.
const MAX_STEPS: u32 = 4_000;
/// How many turns other tasks get before the clock is moved.
const TURNS: u32 = 100;
/// The most events and dead letters that are looked through.
const MAX_ITEMS: usize = 10_000;

/// A clock that stands at 2024-01-01T00:00:00Z until it is moved.
pub fn clock() -> Clock {
    Clock::manual(Timestamp::from_millis(1_704_067_200_000))
}

/// A bus for tests: publishing returns when every subscription of this bus has settled the event,
/// retries included, for which the clock is moved. Everything else is the [`Bus`] within.
#[derive(Debug, Clone)]
pub struct TestBus {
    bus: Bus,
    clock: Clock,
}

impl TestBus {
    /// On a backend that was opened with `clock`.
    pub fn on(backend: Arc<dyn Backend>, clock: Clock) -> Result<Self> {
        Self::build(Bus::builder(backend), clock)
    }

    /// On a bus with other options.
    pub fn build(builder: BusBuilder, clock: Clock) -> Result<Self> {
        let bus = builder.clock(clock.clone()).build()?;
        Ok(Self { bus, clock })
    }

    /// Publishes an event and waits until its handlers are done.
    pub async fn publish(&self, event: impl IntoEvent) -> Result<Published> {
        let published = self.bus.publish(event).await?;
        self.quiet().await?;
        Ok(published)
    }

    /// Waits until nothing is left to deliver to the subscriptions of this bus. Moves the clock
    /// while deliveries wait for a retry.
    pub async fn quiet(&self) -> Result<()> {
        for _ in 0..MAX_STEPS {
            for _ in 0..TURNS {
                if self.is_quiet().await? {
                    return Ok(());
                }
                tokio::task::yield_now().await;
            }
            self.clock.advance(STEP);
        }
        let text = "deliveries are left after an hour of the test's time";
        Err(Error::new(ErrorKind::Timeout, text))
    }

    async fn is_quiet(&self) -> Result<bool> {
        for subscription in self.bus.stats().subscriptions {
            let info = self.bus.backend().admin().get(&subscription.name).await?;
            if info.counts.unsettled() > 0 {
                return Ok(false);
            }
        }
        Ok(self.bus.stats().queue_size == 0)
    }

    /// The events that were published and whose type matches, oldest first.
    pub async fn published(&self, patterns: impl IntoPatterns) -> Result<Vec<Event>> {
        published(&self.bus, patterns).await
    }

    /// The dead letters of all subscriptions, oldest first.
    pub async fn dead_letters(&self) -> Result<Vec<DeadLetter>> {
        let letters = self.bus.backend().dead_letters();
        let page = letters
            .list(&DeadLetterFilter::default(), None, MAX_ITEMS)
            .await?;
        Ok(page.items)
    }
}

impl Deref for TestBus {
    type Target = Bus;

    fn deref(&self) -> &Bus {
        &self.bus
    }
}

/// The events that were published and whose type matches, oldest first.
pub async fn published(bus: &Bus, patterns: impl IntoPatterns) -> Result<Vec<Event>> {
    let query = EventQuery {
        patterns: Some(patterns.into_patterns()?),
        limit: MAX_ITEMS,
        ..EventQuery::default()
    };
    let page = bus.backend().history()?.events(&query).await?;
    Ok(page.items.into_iter().map(|item| item.event).collect())
}

/// Whether something was published that matches `patterns` and passes `test`; else what was.
/// [`assert_published!`](crate::assert_published) panics with it.
pub async fn check_published(
    bus: &Bus,
    patterns: impl IntoPatterns,
    test: impl Fn(&Event) -> bool,
) -> Result<(), String> {
    let patterns = patterns.into_patterns().map_err(|e| e.to_string())?;
    let all = published(bus, "**").await.map_err(|e| e.to_string())?;
    let fits = |event: &&Event| patterns.matches(event.event_type()) && test(event);
    if all.iter().any(|event| fits(&event)) {
        return Ok(());
    }
    let seen: Vec<String> = all
        .iter()
        .map(|event| {
            let data = String::from_utf8_lossy(event.bytes());
            format!("\n  {} {data}", event.event_type())
        })
        .collect();
    Err(format!(
        "nothing was published that matches `{patterns}` and the test; there was:{}",
        seen.concat()
    ))
}

/// Asserts that an event was published whose type matches a pattern and, where a test follows,
/// whose data, read as the closure's argument, pass it.
///
/// ```ignore
/// assert_published!(bus, "orders.*");
/// assert_published!(bus, "orders.placed", |order: OrderPlaced| order.total > 10);
/// ```
#[macro_export]
macro_rules! assert_published {
    ($bus:expr, $patterns:expr $(,)?) => {
        if let Err(text) = $crate::testing::check_published(&$bus, $patterns, |_| true).await {
            panic!("{text}");
        }
    };
    ($bus:expr, $patterns:expr, |$data:ident : $type:ty| $test:expr $(,)?) => {
        let test = |event: &_| match $crate::extract::decode::<$type>(event) {
            Ok($data) => $test,
            Err(_) => false,
        };
        if let Err(text) = $crate::testing::check_published(&$bus, $patterns, test).await {
            panic!("{text}");
        }
    };
}
