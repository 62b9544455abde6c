//! `fanfare forward`: whatever is killed meanwhile, the target ends with what was published, in
//! order per key. The judge keeps its own record of what was acknowledged.
//!
//! `FANFARE_FORWARD_KILLS` and `FANFARE_FORWARD_BROKER_KILLS` make the campaigns longer.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fanfare::Bus;
use fanfare::core::backend::Backend;
use fanfare::core::clock::Clock;
use fanfare::core::data::Data;
use fanfare::core::event::Event;
use fanfare::core::history::EventQuery;
use fanfare::core::position::Position;
use fanfare_conformance::broker::{Broker, Durability, redis};

use crate::process::{Running, fanfare};

/// Keys that the events are spread over.
const KEYS: u64 = 40;
/// Events published for each life of the forwarding process.
const EVENTS: u64 = 150;
/// How long what is left may take to arrive at the end.
const LIMIT: Duration = Duration::from_mins(2);

fn times(variable: &str, default: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A splitmix64 generator: the same campaign every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// What was acknowledged, in the order of publishing.
#[derive(Default)]
struct Record(Vec<Event>);

impl Record {
    /// The next `n` events, of many keys, published on `bus`.
    async fn publish(&mut self, bus: &Bus, n: u64) {
        let from = self.0.len() as u64;
        let events: Vec<Event> = (from..from + n)
            .map(|n| {
                Event::builder("orders.placed".parse().unwrap())
                    .source("/campaign")
                    .key(format!("key-{}", n * 7 % KEYS))
                    .data(Data::json(format!("{{ \"n\": {n} }}")))
                    .build()
                    .unwrap()
            })
            .collect();
        for answer in bus.publish_all(events.clone()).await.unwrap() {
            assert!(!answer.unwrap().duplicate);
        }
        self.0.extend(events);
    }

    /// The target holds these events, unchanged and in order per key; answers how many of them it
    /// holds more than once.
    fn judge(&self, target: &[Event]) -> usize {
        let mut seen = HashSet::new();
        let first: Vec<&Event> = target
            .iter()
            .filter(|e| seen.insert(e.id().clone()))
            .collect();
        let published: HashMap<_, _> = self.0.iter().map(|event| (event.id(), event)).collect();
        for event in target {
            assert_eq!(
                Some(&event),
                published.get(event.id()),
                "changed or made up"
            );
        }
        assert_eq!(first.len(), self.0.len(), "events missing on the target");
        let by_key = |events: &mut dyn Iterator<Item = &Event>| {
            let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for event in events {
                let key = event.key().unwrap().to_owned();
                keys.entry(key).or_default().push(event.id().to_string());
            }
            keys
        };
        let (theirs, ours) = (by_key(&mut first.into_iter()), by_key(&mut self.0.iter()));
        assert_eq!(theirs, ours, "order within a key");
        target.len() - self.0.len()
    }
}

async fn everything(backend: &dyn Backend) -> Vec<Event> {
    let mut all = Vec::new();
    let mut query = EventQuery {
        limit: 1_000,
        after: Some(Position::START),
        ..EventQuery::default()
    };
    loop {
        let page = backend.history().unwrap().events(&query).await.unwrap();
        all.extend(page.items.into_iter().map(|item| item.event));
        match page.next {
            Some(next) => query.after = Some(next),
            None => return all,
        }
    }
}

async fn count(url: &str) -> u64 {
    let backend = fanfare::backend(url).await.unwrap();
    let stats = backend.admin().stats().await.unwrap();
    backend.close().await.unwrap();
    stats.events
}

fn start(from: &str, to: &str) -> Running {
    let args = [
        "forward",
        from,
        to,
        "--lease",
        "500ms",
        "--concurrency",
        "32",
        "--log",
        "off",
    ];
    let running = Running::start(fanfare(&args));
    running.line_with("forwarding");
    running
}

/// Forwards from `from` to a Redis of our own while both the process and the server are killed.
async fn campaign(from: &str, kills: u64, broker_kills: u64) {
    let clock = Clock::system();
    let broker = Broker::start(redis(), Durability::Always).await.unwrap();
    let to = format!("{}?stream=target", broker.url());
    let mut dice = Dice(17);
    let mut record = Record::default();
    let every = (kills / broker_kills.max(1)).max(1);
    let mut broker_deaths = 0;
    for life in 0..kills {
        let bus = fanfare::connect(from).await.unwrap();
        record.publish(&bus, EVENTS).await;
        bus.shutdown(Duration::ZERO).await.unwrap();
        let process = start(from, &to);
        clock.sleep(Duration::from_millis(dice.below(150))).await;
        if life % every == 0 && broker_deaths < broker_kills {
            broker_deaths += 1;
            broker.kill().unwrap();
            clock.sleep(Duration::from_millis(dice.below(400))).await;
            // Half of the time the process dies while the server is away.
            if dice.below(2) == 0 {
                broker.restart().await.unwrap();
                clock.sleep(Duration::from_millis(dice.below(400))).await;
            }
        }
        process.kill();
        if life % every == 0 {
            broker.restart().await.unwrap();
        }
    }
    let process = start(from, &to);
    let until = clock.now() + LIMIT;
    while count(&to).await < record.0.len() as u64 && clock.now() < until {
        clock.sleep(Duration::from_millis(100)).await;
    }
    process.signal("TERM");
    assert_eq!(process.end().code, 0);
    let target = fanfare::backend(&to).await.unwrap();
    let twice = record.judge(&everything(&*target).await);
    target.close().await.unwrap();
    settled_here(from, record.0.len() as u64).await;
    println!(
        "{} events from {from}: {kills} kills, {broker_deaths} of the server, {twice} held twice",
        record.0.len()
    );
}

/// Everything is acknowledged at the source, nothing is dead, and its books balance.
async fn settled_here(from: &str, published: u64) {
    let source: Arc<dyn Backend> = fanfare::backend(from).await.unwrap();
    let info = source
        .admin()
        .get(&"forward".parse().unwrap())
        .await
        .unwrap();
    let counts = info.counts;
    assert_eq!(
        (counts.acknowledged, counts.dead, counts.unsettled()),
        (published, 0, 0)
    );
    for audited in source.admin().audit(None).await.unwrap() {
        assert!(
            audited.counts.balanced() && audited.breaches.is_empty(),
            "{audited:?}"
        );
    }
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn from_sqlite_to_redis_whatever_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let from = format!("sqlite:{}", dir.path().display());
    let kills = times("FANFARE_FORWARD_KILLS", 12);
    campaign(&from, kills, times("FANFARE_FORWARD_BROKER_KILLS", 3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_memory_to_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let from = fanfare::connect("memory:").await.unwrap();
    let to = fanfare::connect(&format!("sqlite:{}", dir.path().display()))
        .await
        .unwrap();
    let mut record = Record::default();
    record.publish(&from, 500).await;
    let forwarding = from.forward("to-sqlite", "**", &to).await.unwrap();
    record.publish(&from, 500).await;
    let clock = Clock::system();
    while forwarding.stats().acknowledged < 1_000 {
        clock.sleep(Duration::from_millis(5)).await;
    }
    from.shutdown(Duration::from_secs(5)).await.unwrap();
    assert_eq!(record.judge(&everything(&**to.backend()).await), 0);
    to.shutdown(Duration::ZERO).await.unwrap();
}

#[test]
fn a_stream_is_not_forwarded_to_itself() {
    let ended = crate::process::run(fanfare(&["forward", "memory:", "memory:"]));
    assert!(ended.failed(2).contains("same stream"));
}
