//! The journal: what it keeps of a backend that keeps nothing, whatever is killed meanwhile, and whom
//! it refuses.

mod hidden;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare::Bus;
use fanfare::bus::Journal;
use fanfare::bus::journal::JOURNAL;
use fanfare::core::ErrorKind;
use fanfare::core::backend::Backend;
use fanfare::core::data::Data;
use fanfare::core::dead_letter::{DeadLetterFilter, Selection};
use fanfare::core::event::Event;
use fanfare::core::pattern::Pattern;
use fanfare::core::retry::RetryPolicy;
use fanfare::core::subscription::{Start, SubscriptionSpec};
use fanfare_conformance::Target;
use fanfare_conformance::broker::{Broker, Durability, redis};
use serde_json::{Value, json};

use crate::forward::everything;
use crate::journal::hidden::Hidden;
use crate::process::{Running, Server, fanfare, run};

/// How long anything may take before the test has failed.
const LIMIT: Duration = Duration::from_mins(1);

fn event(key: &str, n: usize) -> Event {
    let event = Event::builder("orders.placed".parse().unwrap()).source("/elsewhere");
    let data = Data::json(format!("{{ \"n\": {n} }}"));
    event.key(key).data(data).build().unwrap()
}

async fn sqlite(dir: &Path) -> Arc<dyn Backend> {
    let url = format!("sqlite:{}", dir.display());
    fanfare::backend(&url).await.unwrap()
}

/// A durable backend without history in `dir`, and one with a journal beside it.
async fn opened(dir: &Path) -> (Arc<dyn Backend>, Arc<Journal>) {
    let source: Arc<dyn Backend> = Arc::new(Hidden(sqlite(&dir.join("source")).await));
    let log = sqlite(&dir.join("journal")).await;
    (source.clone(), Journal::open(source, log).await.unwrap())
}

/// Waits until the journal holds all of these, and answers everything it holds.
async fn holding(journal: &dyn Backend, wanted: &HashSet<String>) -> Vec<Event> {
    let looking = async {
        let history = journal.history().unwrap();
        loop {
            let head = history.head().await.unwrap();
            let all = everything(journal).await;
            let ids: HashSet<_> = all.iter().map(|event| event.id().to_string()).collect();
            if wanted.is_subset(&ids) {
                return all;
            }
            history.wait_beyond(head, LIMIT).await.unwrap();
        }
    };
    tokio::time::timeout(LIMIT, looking)
        .await
        .expect("all of them in time")
}

/// Publishes in turn past the journal, as another application does, and through it; says what was
/// acknowledged, and ends when it is killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a process that the next test starts and kills"]
async fn publishes_until_it_is_killed() {
    let dir = PathBuf::from(std::env::var("FANFARE_TEST_DIR").unwrap());
    let (source, journal) = opened(&dir).await;
    for n in 0.. {
        let (key, by): (_, &dyn Backend) = match n % 2 {
            0 => ("past", &*source),
            _ => ("through", &*journal),
        };
        let event = event(key, n);
        let mut answers = by.publish(std::slice::from_ref(&event)).await.unwrap();
        assert!(!answers.remove(0).unwrap().duplicate);
        println!("acknowledged {key} {}", event.id());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_durable_backend_acknowledged_is_in_the_journal_once_whatever_kills_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for life in 0..8 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let test = "journal::publishes_until_it_is_killed";
        command.args(["--exact", test, "--ignored", "--nocapture"]);
        command.env("FANFARE_TEST_DIR", dir.path());
        let child = Running::start(command);
        let mut said: Vec<String> = Vec::new();
        while said.len() < 3 + life * 17 {
            said.push(child.line_with("acknowledged "));
        }
        child.signal("KILL");
        said.extend(child.end().out.lines().map(str::to_owned));
        for line in said {
            let words: Vec<_> = line.split_whitespace().collect();
            if let [.., "acknowledged", key, id] = words[..] {
                let ids = acknowledged.entry(key.to_owned()).or_default();
                ids.push(id.to_owned());
            }
        }
    }
    let (_, journal) = opened(dir.path()).await;
    let wanted = acknowledged.values().flatten().cloned().collect();
    let all = holding(&*journal, &wanted).await;
    let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in &all {
        let ids = held.entry(event.key().unwrap().to_owned()).or_default();
        ids.push(event.id().to_string());
    }
    for (key, ids) in held {
        let twice: HashSet<_> = ids.iter().collect();
        assert_eq!(twice.len(), ids.len(), "nothing twice");
        let known = ids.iter().filter(|id| wanted.contains(*id)).cloned();
        // In order, too; what was not acknowledged any more is there or is not.
        assert_eq!(known.collect::<Vec<_>>(), acknowledged[&key]);
        assert!(
            ids.len() <= acknowledged[&key].len() + 8,
            "one at most for each life"
        );
    }
    journal.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_journal_is_refused_until_the_subscription_of_the_first_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let again = || async { Arc::new(Hidden(sqlite(&source).await)) as Arc<dyn Backend> };
    let other = || async { sqlite(&dir.path().join("other")).await };
    let (_, journal) = opened(dir.path()).await;
    journal.close().await.unwrap();
    let refused = Journal::open(again().await, other().await).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    let (_, journal) = opened(dir.path()).await;
    journal.close().await.unwrap();

    let plain = sqlite(&source).await;
    let name = JOURNAL.parse().unwrap();
    plain.admin().delete(&name, false).await.unwrap();
    plain.close().await.unwrap();
    let taken = Journal::open(again().await, other().await).await.unwrap();
    taken.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_and_dead_letters_on_the_broker_are_reached_beside_the_journals_own() {
    let dir = tempfile::tempdir().unwrap();
    let (source, journal) = opened(dir.path()).await;
    let spec =
        |name: &str| SubscriptionSpec::new(name.parse().unwrap(), Pattern::everything().into());
    source.admin().put(&spec("theirs")).await.unwrap();
    let mut ours = spec("ours");
    ours.start = Start::Earliest;
    journal.admin().put(&ours).await.unwrap();
    let bus = Bus::builder(journal.clone()).build().unwrap();
    for name in ["ours", "theirs"] {
        let handling = bus.subscribe(name, "**").start(Start::Earliest);
        let policy = RetryPolicy::exponential(1);
        let refusing = handling
            .retry(policy)
            .handle(|_: Event| async { Err::<(), _>("no") });
        refusing.await.unwrap();
    }
    source.publish(&[event("k", 1)]).await.unwrap();
    for name in ["ours", "theirs"] {
        let dead = async {
            let name = name.parse().unwrap();
            while journal.admin().get(&name).await.unwrap().counts.dead == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, dead).await.unwrap();
    }
    let names = journal.admin().list().await.unwrap();
    let names: Vec<_> = names.iter().map(|info| info.spec.name.as_str()).collect();
    assert_eq!(names, ["ours", "theirs"]);
    let own = journal
        .admin()
        .get(&JOURNAL.parse().unwrap())
        .await
        .unwrap();
    assert_eq!(own.counts.acknowledged, 1);
    let refused = journal.admin().delete(&own.spec.name, true).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);

    // One by one, a page shows both; discarding one leaves the other.
    let letters = journal.dead_letters();
    let every = DeadLetterFilter::default();
    let first = letters.list(&every, None, 1).await.unwrap();
    let second = letters
        .list(&every, first.next.as_deref(), 1)
        .await
        .unwrap();
    let both = [&first.items[0], &second.items[0]];
    assert_eq!(
        both.map(|letter| letter.subscription.as_str()),
        ["ours", "theirs"]
    );
    let rest = letters
        .list(&every, second.next.as_deref(), 1)
        .await
        .unwrap();
    assert!(second.next.is_none() || rest.items.is_empty(), "{rest:?}");
    let gone = Selection::Ids(vec![both[1].id.clone()]);
    assert_eq!(letters.discard(&gone).await.unwrap().done, 1);
    assert_eq!(letters.count(&Selection::Filter(every)).await.unwrap(), 1);
    letters.get(&both[0].id).await.unwrap();
    bus.shutdown(LIMIT).await.unwrap();
}

/// A durable backend without history, under a journal.
#[derive(Debug)]
struct Journaled(tempfile::TempDir);

#[async_trait]
impl Target for Journaled {
    fn name(&self) -> String {
        "sqlite without history, and a journal".into()
    }

    async fn open(&self, stream: &str) -> fanfare::core::Result<Arc<dyn Backend>> {
        Ok(opened(&self.0.path().join(stream)).await.1)
    }
}

#[test]
fn every_promise_of_the_log_holds_for_a_journal() {
    fanfare_conformance::check(Arc::new(Journaled(tempfile::tempdir().unwrap())));
}

/// A server on Pub/Sub, with what it keeps in `dir`.
fn on_pubsub(url: &str, dir: &Path, listen: &str) -> Server {
    let dir = dir.to_str().unwrap();
    Server::start(&["--backend", url, "--data-dir", dir, "--listen", listen])
}

/// Waits until the server shows so many events, and answers their ids, oldest first.
fn shown(server: &Server, count: usize) -> Vec<String> {
    let count = count.to_string();
    let tail = ["tail", "--since", "1h", "-n", &count, "--json"];
    server.run(&tail).ok();
    let listed = server.run(&["events", "list", "--json"]).objects();
    let id = |event: &Value| event["event"]["id"].as_str().unwrap().to_owned();
    listed.iter().map(id).collect()
}

#[test]
fn a_server_on_pubsub_has_a_past_whatever_kills_it() {
    // Talking to a server blocks, so nothing here is a task but what talks to the broker.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let broker = runtime.block_on(Broker::start(redis(), Durability::Off));
    let broker = broker.unwrap();
    let url = format!("{}?mode=pubsub&stream=shop", broker.url());
    let elsewhere = runtime.block_on(fanfare::connect(&url)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut published = Vec::new();
    let mut server = on_pubsub(&url, dir.path(), "127.0.0.1:0");
    for life in 0..4 {
        for n in 0..25 {
            let answer = server.post("/v1/events", &json!({ "type": "orders.placed", "data": n }));
            assert_eq!(answer["duplicate"], false, "{answer}");
            published.push(answer["id"].as_str().unwrap().to_owned());
            let event = event("k", n);
            runtime.block_on(elsewhere.publish(&event)).unwrap();
            published.push(event.id().to_string());
        }
        if life % 2 == 0 {
            // Acknowledged here, and the server dies at once: others' events may be lost then.
            let mut seen = shown(&server, published.len());
            let answer = server.post("/v1/events", &json!({ "type": "orders.placed" }));
            published.push(answer["id"].as_str().unwrap().to_owned());
            seen.push(published.last().unwrap().clone());
            assert_eq!(sorted(seen), sorted(published.clone()));
        } else {
            shown(&server, published.len());
        }
        let address = server.address().to_owned();
        server.process.kill();
        server = on_pubsub(&url, dir.path(), &address);
    }
    let ids = shown(&server, published.len());
    assert_eq!(sorted(ids.clone()), sorted(published.clone()), "each once");
    the_past_is_offered(&server, &ids);
    runtime.block_on(elsewhere.shutdown(LIMIT)).unwrap();
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

/// A new subscription begins with the oldest event; deliveries, figures and the audit tell of it.
fn the_past_is_offered(server: &Server, ids: &[String]) {
    let create = ["subscriptions", "create", "late", "orders.*"];
    server
        .run(&[&create[..], &["--start", "earliest"]].concat())
        .ok();
    let pull = json!({ "max": 1000 });
    let pulled = server.post("/v1/subscriptions/late/pull", &pull);
    let deliveries = pulled["deliveries"].as_array().unwrap();
    assert_eq!(deliveries.len(), ids.len());
    let ack = json!({ "delivery": deliveries[0]["delivery"], "outcome": "ack" });
    let settled = json!({ "settlements": [ack] });
    server.post("/v1/subscriptions/late/settle", &settled);
    for (id, state) in [(&ids[0], "settled"), (&ids[1], "in_flight")] {
        let shown = server.run(&["events", "show", id, "--json"]).objects();
        assert_eq!(
            shown[0]["deliveries"][0]["subscription"], "late",
            "{shown:?}"
        );
        assert_eq!(shown[0]["deliveries"][0]["state"], state, "{shown:?}");
    }
    let audit = server.run(&["audit", "--json"]).objects();
    assert_eq!(audit[0]["subscriptions"][0]["published"], ids.len());
    let list = server.run(&["subscriptions", "list", "--json"]).objects();
    assert_eq!(list.len(), 1, "{list:?}");
    let own = server.run(&["subscriptions", "show", JOURNAL]);
    assert!(own.ok().contains(JOURNAL));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_journal_pubsub_has_no_past() {
    let broker = Broker::start(redis(), Durability::Off).await.unwrap();
    let url = format!("{}?mode=pubsub", broker.url());
    let args = [
        "--backend",
        &url,
        "--journal",
        "none",
        "--listen",
        "127.0.0.1:0",
    ];
    let server = Server::start(&args);
    let refused = server.run(&["events", "list"]).failed(1);
    assert!(refused.contains("keeps no events"), "{refused}");
}

#[test]
fn a_journal_beside_a_backend_with_a_history_is_refused() {
    let args = ["serve", "--backend", "memory:", "--journal", "memory:"];
    let line = run(fanfare(&args)).failed(2);
    assert!(line.contains("keeps its events itself"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_runs_unchanged_on_pubsub() {
    let broker = Broker::start(redis(), Durability::Off).await.unwrap();
    let url = format!("{}?mode=pubsub", broker.url());
    let mut command = fanfare(&["demo", "--backend", &url, "--listen", "127.0.0.1:0"]);
    command.args(["--seconds", "60", "--rate", "20"]);
    let demo = Running::start(command);
    demo.line_with("redriving");
    demo.line_with("order 7: charged");
    demo.signal("INT");
    let ended = demo.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.out.contains("conservation holds"), "{ended:?}");
}
