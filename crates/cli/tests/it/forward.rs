//! `fanfare forward`: whatever is killed meanwhile, the target ends with what was committed, in order
//! per key. The judge keeps its own record of what was acknowledged, and of what was rolled back.
//!
//! `FANFARE_FORWARD_KILLS` and `FANFARE_FORWARD_BROKER_KILLS` make the campaigns longer.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanfare::Bus;
use fanfare::core::backend::Backend;
use fanfare::core::clock::Clock;
use fanfare::core::data::Data;
use fanfare::core::event::Event;
use fanfare::core::history::EventQuery;
use fanfare::core::position::Position;
use fanfare::core::subscription::Start;
use fanfare_conformance::broker::{Broker, Durability, postgres, redis};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

use crate::process::{Running, fanfare};

/// Events published for each life of the forwarding process, where it is alone with its source.
const EVENTS: usize = 150;
/// Who writes to a database at the same time, each with keys of its own.
const WRITERS: u64 = 4;
/// Rounds that the writers have for each life, together.
const ROUNDS: usize = 15;
/// A life lasts until fewer than so many events more have arrived.
const LIFE: u64 = 20;
/// How long it may take, at the end, until more of what is left has arrived.
const LIMIT: Duration = Duration::from_mins(1);

fn times(variable: &str, default: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A splitmix64 generator: the same choices every time.
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

/// Ids by key, in order.
type Keys = BTreeMap<String, Vec<String>>;

fn by_key<'a>(events: impl IntoIterator<Item = &'a Event>) -> Keys {
    let mut keys = Keys::new();
    for event in events {
        let key = event.key().unwrap().to_owned();
        keys.entry(key).or_default().push(event.id().to_string());
    }
    keys
}

fn len(keys: &Keys) -> usize {
    keys.values().map(Vec::len).sum()
}

/// Who publishes at the source while the forwarding is killed.
enum Source {
    /// One process at a time: between two lives.
    Alone(String, Keys),
    /// Writers of a database, in transactions of their own, as many rounds as they are given.
    Shared(String, Arc<Semaphore>, Vec<JoinHandle<Keys>>),
}

impl Source {
    async fn postgres(url: String) -> Self {
        // The schema is there before the writers are.
        let bus = fanfare::connect(&url).await.unwrap();
        bus.shutdown(Duration::ZERO).await.unwrap();
        let rounds = Arc::new(Semaphore::new(0));
        let writers = (0..WRITERS)
            .map(|n| tokio::spawn(write(url.clone(), n, rounds.clone())))
            .collect();
        Self::Shared(url, rounds, writers)
    }

    fn url(&self) -> &str {
        match self {
            Self::Alone(url, _) | Self::Shared(url, ..) => url,
        }
    }

    /// Publishes what one life of the forwarding process has to do, or has it published meanwhile.
    async fn publish(&mut self) {
        let (url, committed) = match self {
            Self::Alone(url, committed) => (url, committed),
            Self::Shared(_, rounds, _) => return rounds.add_permits(ROUNDS),
        };
        let bus = fanfare::connect(url).await.unwrap();
        let from = len(committed);
        let events: Vec<Event> = (from..from + EVENTS).map(|n| event(n % 40, n)).collect();
        for answer in bus.publish_all(events.clone()).await.unwrap() {
            assert!(!answer.unwrap().duplicate);
        }
        for (key, ids) in by_key(&events) {
            committed.entry(key).or_default().extend(ids);
        }
        bus.shutdown(Duration::ZERO).await.unwrap();
    }

    /// Ends publishing; what was committed.
    async fn end(self) -> Keys {
        match self {
            Self::Alone(_, committed) => committed,
            Self::Shared(_, rounds, writers) => {
                rounds.close();
                let mut all = Keys::new();
                for writer in writers {
                    all.append(&mut writer.await.unwrap());
                }
                all
            }
        }
    }
}

fn event(key: usize, n: usize) -> Event {
    let event = Event::builder("orders.placed".parse().unwrap()).source("/campaign");
    let data = Data::json(format!("{{ \"n\": {n} }}"));
    event.key(format!("key-{key}")).data(data).build().unwrap()
}

/// In each round publishes in two transactions at a time, with keys of their own, that end in either
/// order; one in five is rolled back.
async fn write(url: String, writer: u64, rounds: Arc<Semaphore>) -> Keys {
    let mut clients = Vec::new();
    for _ in 0..2 {
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        clients.push(client);
    }
    let publish = "SELECT fanfare.publish(type => 'orders.placed', data => '{\"n\": 1}', \
                   id => $1, source => '/campaign', key => $2)";
    let (mut committed, mut dice, mut number) = (Keys::new(), Dice(writer), 0);
    while let Ok(round) = rounds.acquire().await {
        round.forget();
        let mut open = Vec::new();
        for (name, client) in clients.iter_mut().enumerate() {
            let transaction = client.transaction().await.unwrap();
            let mut published = Vec::new();
            for _ in 0..=dice.below(4) {
                let key = format!("writer-{writer}-{name}-{}", dice.below(5));
                let id = format!("{writer}-{number}");
                number += 1;
                transaction.query(publish, &[&id, &key]).await.unwrap();
                published.push((key, id));
            }
            open.push((transaction, published));
        }
        if dice.below(2) == 0 {
            open.reverse();
        }
        for (transaction, published) in open {
            if dice.below(5) == 0 {
                transaction.rollback().await.unwrap();
                continue;
            }
            transaction.commit().await.unwrap();
            for (key, id) in published {
                committed.entry(key).or_default().push(id);
            }
        }
    }
    committed
}

/// Who reads the target all along, and how many different events came to it.
struct Arrivals {
    bus: Bus,
    count: watch::Receiver<usize>,
}

impl Arrivals {
    async fn at(url: &str) -> Self {
        let bus = fanfare::connect(url).await.unwrap();
        let (told, count) = watch::channel(0);
        let ids = Arc::new(Mutex::new(HashSet::new()));
        let note = move |event: Event| {
            let mut ids = ids.lock().unwrap();
            ids.insert(event.id().clone());
            told.send_replace(ids.len());
            std::future::ready(())
        };
        let reading = bus.subscribe("judge", "**").start(Start::Earliest);
        let reading = reading.lease(Duration::from_millis(500)).handle(note);
        reading.await.unwrap();
        Self { bus, count }
    }

    /// Waits until so many have arrived.
    async fn reach(&mut self, wanted: usize) {
        let clock = Clock::system();
        loop {
            let arrived = *self.count.borrow_and_update();
            if arrived >= wanted {
                return;
            }
            tokio::select! {
                changed = self.count.changed() => changed.unwrap(),
                () = clock.sleep(LIMIT) => panic!("nothing more arrives after {arrived}"),
            }
        }
    }
}

/// The source's log is what was committed; the target holds it, unchanged and in order per key.
/// Answers how many events it holds more than once.
fn judge(committed: &Keys, source: &[Event], target: &[Event]) -> usize {
    assert_eq!(by_key(source), *committed, "the log of the source");
    let published: BTreeMap<_, _> = source.iter().map(|event| (event.id(), event)).collect();
    for event in target {
        assert_eq!(
            Some(&event),
            published.get(event.id()),
            "changed or made up"
        );
    }
    let mut seen = HashSet::new();
    let first = target.iter().filter(|e| seen.insert(e.id().clone()));
    assert_eq!(by_key(first), *committed, "the target");
    target.len() - source.len()
}

/// Every event that it keeps, oldest first.
pub(crate) async fn everything(backend: &dyn Backend) -> Vec<Event> {
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

/// Forwards to a Redis of our own while both the forwarding process and that server are killed.
async fn campaign(mut source: Source, kills: u64, broker_kills: u64) {
    let from = source.url().to_owned();
    let broker = Broker::start(redis(), Durability::Always).await.unwrap();
    let to = format!("{}?stream=target", broker.url());
    let mut arrivals = Arrivals::at(&to).await;
    let mut dice = Dice(17);
    let every = (kills / broker_kills.max(1)).max(1);
    let mut broker_deaths = 0;
    for life in 0..kills {
        let more = usize::try_from(dice.below(LIFE)).unwrap();
        let until = *arrivals.count.borrow() + more;
        source.publish().await;
        let process = start(&from, &to);
        arrivals.reach(until).await;
        if life % every == 0 && broker_deaths < broker_kills {
            broker_deaths += 1;
            broker.kill().unwrap();
            // Half of the time the process dies while the server is away.
            if dice.below(2) == 0 {
                broker.restart().await.unwrap();
            }
        }
        process.kill();
        if life % every == 0 {
            broker.restart().await.unwrap();
        }
    }
    let committed = source.end().await;
    let behind = len(&committed) - usize::try_from(count(&to).await).unwrap();
    let process = start(&from, &to);
    arrivals.reach(len(&committed)).await;
    arrivals.bus.shutdown(Duration::ZERO).await.unwrap();
    process.signal("TERM");
    assert_eq!(process.end().code, 0);
    let twice = compare(&from, &to, &committed).await;
    println!(
        "{} events forwarded from {from}: {kills} kills, {broker_deaths} of the server, {behind} left for the \
         last process, {twice} held twice",
        len(&committed)
    );
}

/// Everything committed is acknowledged at the source and held by the target; nothing is dead, and
/// the books balance.
async fn compare(from: &str, to: &str, committed: &Keys) -> usize {
    let source = fanfare::backend(from).await.unwrap();
    let target = fanfare::backend(to).await.unwrap();
    let twice = judge(
        committed,
        &everything(&*source).await,
        &everything(&*target).await,
    );
    let name = "forward".parse().unwrap();
    let counts = source.admin().get(&name).await.unwrap().counts;
    let all = (counts.acknowledged, counts.dead, counts.unsettled());
    assert_eq!(all, (len(committed) as u64, 0, 0));
    for audited in source.admin().audit(None).await.unwrap() {
        let sound = audited.counts.balanced() && audited.breaches.is_empty();
        assert!(sound, "{audited:?}");
    }
    source.close().await.unwrap();
    target.close().await.unwrap();
    twice
}

#[tokio::test(flavor = "multi_thread")]
async fn from_sqlite_to_redis_whatever_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().display());
    let kills = times("FANFARE_FORWARD_KILLS", 12);
    let broker_kills = times("FANFARE_FORWARD_BROKER_KILLS", 3);
    campaign(Source::Alone(url, Keys::new()), kills, broker_kills).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_postgres_to_redis_whatever_is_killed() {
    let server = Broker::start(postgres(), Durability::Always).await.unwrap();
    let kills = times("FANFARE_FORWARD_KILLS", 12);
    let broker_kills = times("FANFARE_FORWARD_BROKER_KILLS", 3);
    campaign(Source::postgres(server.url()).await, kills, broker_kills).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_memory_to_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let from = fanfare::connect("memory:").await.unwrap();
    let to = format!("sqlite:{}", dir.path().display());
    let to = fanfare::connect(&to).await.unwrap();
    let events: Vec<Event> = (0..1_000).map(|n| event(n % 40, n)).collect();
    from.publish_all(events[..500].to_vec()).await.unwrap();
    let forwarding = from.forward("to-sqlite", "**", &to).await.unwrap();
    from.publish_all(events[500..].to_vec()).await.unwrap();
    forwarding.until(|stats| stats.acknowledged == 1_000).await;
    from.shutdown(Duration::from_secs(5)).await.unwrap();
    let arrived = everything(&**to.backend()).await;
    assert_eq!(judge(&by_key(&events), &events, &arrived), 0);
    to.shutdown(Duration::ZERO).await.unwrap();
}

#[test]
fn a_stream_is_not_forwarded_to_itself() {
    let ended = crate::process::run(fanfare(&["forward", "memory:", "memory:"]));
    assert!(ended.failed(2).contains("same stream"));
}
