//! What is measured beside the cases, while nothing else goes on: how long a lone event takes, how long
//! a broken line is missed, and what came more than once. Not a load test.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fanfare_bus::Bus;
use fanfare_core::clock::Clock;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::event_type::EventType;
use fanfare_core::timestamp::Timestamp;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use crate::line::Line;
use crate::run::Options;
use crate::target::Target;

/// Lone events that are measured, and before them some that are not.
const EVENTS: usize = 200;
const WARM: usize = 20;
/// Between them.
const PAUSE: Duration = Duration::from_millis(10);
/// How often the line is cut.
const CUTS: usize = 10;
/// What is under way when it is.
const UNDER_WAY: usize = 10;
/// A delivery whose acknowledgement was lost comes again soon.
const LEASE: Duration = Duration::from_secs(2);

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// From the call that publishes a lone event to its handler, in milliseconds.
    pub idle_latency_ms: Percentiles,
    /// From a cut of the line until something published after it is handled, in milliseconds; none where
    /// there is no line to cut.
    pub recovery_ms: Option<Percentiles>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_not_tried: Option<String>,
    /// Deliveries of events that had been handled already, of all that was measured. Nobody asked for
    /// them.
    pub duplicates: u64,
}

/// Of some measurements.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    /// Half took no longer.
    pub p50: f64,
    /// All but one of a hundred took no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
    /// How many.
    pub count: usize,
}

impl Percentiles {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        let at = |hundredth: usize| {
            let place = (all.len() * hundredth).div_ceil(100).saturating_sub(1);
            all.get(place).map_or(0.0, |took| took.as_secs_f64() * 1e3)
        };
        Self {
            p50: at(50),
            p99: at(99),
            max: at(100),
            count: all.len(),
        }
    }
}

/// Measures the target on streams of its own; nothing else should be going on there.
pub async fn measure(target: &dyn Target, options: &Options) -> Result<Measured> {
    let idle = format!("{}_idle", options.prefix);
    let measured = lone_events(target, &idle, options.patience).await;
    target.over(&idle).await;
    let (idle_latency_ms, repeated) = measured?;
    let cut = format!("{}_cut", options.prefix);
    let measured = cuts(target, &cut, options.patience).await;
    target.over(&cut).await;
    let (recovery_ms, recovery_not_tried, again) = match measured {
        Ok((recovery, again)) => (Some(recovery), None, again),
        Err(error) if error.kind() == ErrorKind::Unsupported => (None, Some(error.to_string()), 0),
        Err(error) => return Err(error),
    };
    Ok(Measured {
        idle_latency_ms,
        recovery_ms,
        recovery_not_tried,
        duplicates: repeated + again,
    })
}

async fn lone_events(
    target: &dyn Target,
    stream: &str,
    patience: Duration,
) -> Result<(Percentiles, u64)> {
    let bus = Bus::builder(target.open(stream).await?).build()?;
    let heard = Heard::new();
    heard.listen(&bus).await?;
    let mut took = Vec::with_capacity(EVENTS);
    for number in 0..WARM + EVENTS {
        heard.clock.sleep(PAUSE).await;
        let event = event()?;
        let sent = heard.clock.now();
        bus.publish(&event).await?;
        let came = heard.first_of(&[id_of(&event)], patience).await;
        let came = came.ok_or_else(|| lost("a lone event"))?;
        if number >= WARM {
            took.push(came.since(sent));
        }
    }
    bus.shutdown(patience).await?;
    Ok((Percentiles::of(took), heard.repeats()))
}

async fn cuts(target: &dyn Target, stream: &str, patience: Duration) -> Result<(Percentiles, u64)> {
    let near = Bus::builder(target.open(stream).await?).build()?;
    let Some(opened) = target.open_breakable(stream).await else {
        let why = "there is no network in between";
        return Err(Error::new(ErrorKind::Unsupported, why));
    };
    let opened = opened?;
    let far = Bus::builder(opened.backend).build()?;
    let heard = Heard::new();
    heard.listen(&far).await?;
    let mut took = Vec::with_capacity(CUTS);
    let mut published = Vec::new();
    for number in 0..CUTS {
        let trial = Trial {
            near: &near,
            line: &*opened.line,
            heard: &heard,
            patience,
        };
        took.push(trial.cut(number % 2 == 1, &mut published).await?);
    }
    if !near.backend().capabilities().at_most_once {
        heard.all(&published, patience).await?;
        // What comes again does so by then.
        heard.clock.sleep(LEASE + LEASE / 2).await;
    }
    far.shutdown(patience).await?;
    near.shutdown(patience).await?;
    Ok((Percentiles::of(took), heard.repeats()))
}

/// One cut of the line.
struct Trial<'a> {
    /// By a line that is never cut.
    near: &'a Bus,
    line: &'a dyn Line,
    heard: &'a Heard,
    patience: Duration,
}

impl Trial<'_> {
    /// How long it takes until something published after the cut is handled.
    async fn cut(&self, reset: bool, published: &mut Vec<String>) -> Result<Duration> {
        for _ in 0..UNDER_WAY {
            published.push(self.publish().await?);
        }
        self.line.end(reset);
        let clock = &self.heard.clock;
        let (cut, mut after) = (clock.now(), Vec::new());
        while clock.now().since(cut) < self.patience {
            let id = self.publish().await?;
            published.push(id.clone());
            after.push(id);
            if let Some(came) = self.heard.first_of(&after, PAUSE).await {
                return Ok(came.since(cut));
            }
        }
        Err(lost("everything after a cut of the line"))
    }

    async fn publish(&self) -> Result<String> {
        let event = event()?;
        self.near.publish(&event).await?;
        Ok(id_of(&event))
    }
}

/// What a handler was given: when first, and how often.
#[derive(Clone)]
struct Heard {
    clock: Clock,
    events: Arc<Mutex<HashMap<String, (Timestamp, u64)>>>,
    news: Arc<watch::Sender<()>>,
}

impl Heard {
    fn new() -> Self {
        Self {
            clock: Clock::system(),
            events: Arc::default(),
            news: Arc::new(watch::Sender::new(())),
        }
    }

    async fn listen(&self, bus: &Bus) -> Result<()> {
        let heard = self.clone();
        let subscription = bus.subscribe("measured", "**").lease(LEASE);
        let handler = move |event: Event| {
            heard.note(&event);
            async {}
        };
        subscription.handle(handler).await.map(drop)
    }

    fn note(&self, event: &Event) {
        let now = self.clock.now();
        let mut events = self.events.lock();
        events.entry(id_of(event)).or_insert((now, 0)).1 += 1;
        drop(events);
        self.news.send_replace(());
    }

    /// When the first of these came, waiting at most so long.
    async fn first_of(&self, ids: &[String], patience: Duration) -> Option<Timestamp> {
        let look = || {
            let events = self.events.lock();
            let came = ids.iter().filter_map(|id| events.get(id));
            came.map(|(first, _)| *first).min()
        };
        let mut news = self.news.subscribe();
        tokio::select! {
            _ = news.wait_for(|()| look().is_some()) => {}
            () = self.clock.sleep(patience) => {}
        }
        look()
    }

    /// Waits until all of these came.
    async fn all(&self, ids: &[String], patience: Duration) -> Result<()> {
        for id in ids {
            let came = self.first_of(std::slice::from_ref(id), patience).await;
            came.ok_or_else(|| lost("an event that was under way when the line was cut"))?;
        }
        Ok(())
    }

    fn repeats(&self) -> u64 {
        self.events
            .lock()
            .values()
            .map(|(_, times)| times - 1)
            .sum()
    }
}

fn event() -> Result<Event> {
    let event_type = EventType::parse("suite.measured")?;
    Event::builder(event_type).source("/suite").build()
}

fn id_of(event: &Event) -> String {
    event.id().to_string()
}

fn lost(what: &str) -> Error {
    Error::new(ErrorKind::Timeout, format!("measuring: {what} never came"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_measurements() {
        let all = (1..=200).rev().map(Duration::from_millis).collect();
        let found = Percentiles::of(all);
        let told = [found.p50, found.p99, found.max].map(|ms| format!("{ms:.0}"));
        assert_eq!(told, ["100", "198", "200"]);
        assert_eq!(Percentiles::of(Vec::new()).count, 0);
    }
}
