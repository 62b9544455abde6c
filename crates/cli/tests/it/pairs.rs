//! Forwarding from every backend to every other: nothing lost, nothing changed, each key in its order,
//! and what is forwarded again is known there already.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanfare::Bus;
use fanfare::bus::Subscription;
use fanfare::core::capability::Dedup;
use fanfare::core::data::Data;
use fanfare::core::event::Event;
use fanfare::core::subscription::Start;
#[cfg(feature = "nats")]
use fanfare_conformance::broker::nats;
#[cfg(feature = "amqp")]
use fanfare_conformance::broker::rabbitmq;
use fanfare_conformance::broker::{Broker, Durability, Engine, postgres, redis};
use futures::future::join_all;
use tempfile::TempDir;

/// Events of each backend, and the keys among them.
const EVENTS: usize = 2_000;
const KEYS: usize = 50;
/// Events published at once.
const BATCH: usize = 500;
/// How long one pair may take.
const LIMIT: Duration = Duration::from_secs(50);

/// The server of a backend, where it has one.
type Needed = Option<fn() -> Engine>;

/// The backends, a line each: what it is called, and which server it needs.
const BACKENDS: &[(&str, Needed)] = &[
    ("memory", None),
    ("sqlite", None),
    ("redis", Some(redis)),
    ("postgres", Some(postgres)),
    #[cfg(feature = "nats")]
    ("nats", Some(nats)),
    #[cfg(feature = "amqp")]
    ("amqp", Some(rabbitmq)),
];

/// Where the streams of one backend are.
enum Place {
    Memory,
    Files(TempDir),
    Server(Broker),
}

impl Place {
    async fn prepare(name: &str, engine: Needed) -> Self {
        match engine {
            Some(engine) => {
                let broker = Broker::start(engine(), Durability::Periodic).await;
                Self::Server(broker.unwrap())
            }
            None if name == "memory" => Self::Memory,
            None => Self::Files(tempfile::tempdir().unwrap()),
        }
    }

    async fn open(&self, stream: &str) -> Bus {
        let url = match self {
            Self::Memory => "memory:".to_owned(),
            Self::Files(dir) => format!("sqlite:{}", dir.path().join(stream).display()),
            Self::Server(broker) => format!("{}?stream={stream}", broker.url()),
        };
        fanfare::connect(&url).await.unwrap()
    }
}

/// Ids of every kind that CloudEvents allows, data that a parser would change, attributes of all sorts.
fn events(from: &str) -> Vec<Event> {
    let one = |n: usize| {
        let event = Event::builder("orders.placed".parse().unwrap());
        let id = match n % 3 {
            0 => format!("{from} / {n} \u{e4}"),
            1 => format!("0197C0DE-0000-7000-8000-{n:012X}"),
            _ => format!("0197c0de-0000-7000-8000-{n:012x}"),
        };
        let data = match n % 4 {
            0 => Data::json(format!("{{ \"n\":  {n}.0, \"n\": \"\\u0041\" }}")),
            1 => Data::text(format!("{n}\r\n")),
            2 => Data::binary(vec![0, 255, u8::try_from(n % 251).unwrap()]),
            _ => Data::json("null"),
        };
        let event = event
            .id(id.parse().unwrap())
            .source(format!("/from/{from}"));
        let event = event.key(format!("key-{}", n % KEYS)).subject("a subject");
        event
            .extension("note", "\u{1f3ba}")
            .data(data)
            .build()
            .unwrap()
    };
    (0..EVENTS).map(one).collect()
}

/// What came to a target, in order.
type Arrived = Arc<Mutex<Vec<Event>>>;

async fn listen(target: &Bus) -> (Arrived, Subscription) {
    let arrived = Arrived::default();
    let note = {
        let arrived = arrived.clone();
        move |event: Event| {
            arrived.lock().unwrap().push(event);
            std::future::ready(())
        }
    };
    // One at a time, so that they are noted as they were stored.
    let judge = target.subscribe("judge", "**").start(Start::Latest);
    let judge = judge.concurrency(1).handle(note).await.unwrap();
    (arrived, judge)
}

async fn publish(source: &Bus, events: &[Event]) {
    for batch in events.chunks(BATCH) {
        for answer in source.publish_all(batch.to_vec()).await.unwrap() {
            assert!(!answer.unwrap().duplicate);
        }
    }
}

/// A pair, and what carries everything from one to the other.
struct Pair {
    name: String,
    target: Bus,
    forwarding: Subscription,
    arrived: Arrived,
    judge: Subscription,
}

impl Pair {
    async fn begin(name: String, source: &Bus, target: Bus) -> Self {
        let (arrived, judge) = listen(&target).await;
        let forwarding = source.forward(&name, "**", &target).await.unwrap();
        Self {
            name,
            target,
            forwarding,
            arrived,
            judge,
        }
    }

    /// Waits until all is there; then everything is forwarded again under another name, where the
    /// source still has it and the target knows what it has.
    async fn end(self, source: &Bus, published: &[Event]) {
        let all = published.len() as u64;
        carried(source, &self.forwarding, all, 0).await;
        let target = &self.target;
        let keeps = source.backend().capabilities().start.earliest;
        if keeps && target.backend().capabilities().dedup != Dedup::None {
            let name = format!("{}-again", self.name);
            let again = source.forward(&name, "**", target).await.unwrap();
            carried(source, &again, all, all).await;
        }
        self.judge.until(|stats| stats.acknowledged == all).await;
        let (name, counts) = (&self.name, self.judge.info().await.unwrap().counts);
        assert_eq!(counts.published, all, "{name}: stored there, and no more");
        {
            let arrived = self.arrived.lock().unwrap();
            compare(name, published, &arrived);
            assert_eq!(by_key(&arrived), by_key(published), "{name}: order");
        }
        self.target.shutdown(Duration::ZERO).await.unwrap();
    }
}

/// Waits until all were forwarded, of which the target knew so many.
async fn carried(source: &Bus, forwarding: &Subscription, all: u64, known: u64) {
    let name = forwarding.name();
    forwarding.until(|stats| stats.acknowledged == all).await;
    let counters = source.telemetry().forwarding(name);
    let counted = (counters.forwarded.get(), counters.duplicates.get());
    assert_eq!(counted, (all, known), "{name}: forwarded, known there");
    let counts = forwarding.info().await.unwrap().counts;
    assert_eq!((counts.dead, counts.unsettled()), (0, 0), "{name}");
}

fn compare(pair: &str, published: &[Event], arrived: &[Event]) {
    let there: HashMap<_, _> = arrived.iter().map(|event| (event.id(), event)).collect();
    assert_eq!(
        (there.len(), arrived.len()),
        (published.len(), published.len()),
        "{pair}"
    );
    for event in published {
        let Some(other) = there.get(event.id()) else {
            panic!("{pair}: lost {event:?}");
        };
        assert_eq!(event.bytes(), other.bytes(), "{pair}: bytes");
        assert_eq!(&event, other, "{pair}");
    }
}

fn by_key(events: &[Event]) -> BTreeMap<&str, Vec<String>> {
    let mut keys = BTreeMap::<_, Vec<_>>::new();
    for event in events {
        let ids = keys.entry(event.key().unwrap()).or_default();
        ids.push(event.id().to_string());
    }
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn between_every_pair_of_backends_nothing_is_lost_changed_or_reordered() {
    let starting = BACKENDS.iter().map(|(name, engine)| async {
        let place = Place::prepare(name, *engine).await;
        (*name, place)
    });
    let places = join_all(starting).await;
    for (from, place) in &places {
        let source = place.open(&format!("from_{from}")).await;
        let published = events(from);
        // A broker that forgets hands over what comes from now on.
        let keeps = source.backend().capabilities().start.earliest;
        if keeps {
            publish(&source, &published).await;
        }
        let targets = places.iter().filter(|(to, _)| to != from);
        let beginning = targets.map(|(to, place)| {
            let source = &source;
            async move {
                let name = format!("{from}-to-{to}");
                let target = place.open(&name.replace('-', "_")).await;
                Pair::begin(name, source, target).await
            }
        });
        let pairs = join_all(beginning).await;
        if !keeps {
            publish(&source, &published).await;
        }
        let ending = pairs.into_iter().map(|pair| async {
            let name = pair.name.clone();
            let ended = tokio::time::timeout(LIMIT, pair.end(&source, &published)).await;
            assert!(ended.is_ok(), "{name} did not end in time");
        });
        join_all(ending).await;
        source.shutdown(Duration::ZERO).await.unwrap();
    }
}
