//! `fanfare conformance` on servers as people have them: what it says, and that it leaves nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use fanfare_conformance::broker::{Broker, Durability, nats, postgres, rabbitmq, redis};
use serde_json::Value;
use tokio_postgres::NoTls;

use crate::process::{Ended, Running, fanfare, run, run_for_long};

/// A few cases of every kind: some make subscriptions, state and dead letters, some break the line.
const SOME: [&str; 5] = [
    "gap::",
    "state::",
    "dead_letter::",
    "retention::",
    "fleet::",
];

fn some(url: &str) -> Ended {
    let mut args = vec!["conformance", url, "--json"];
    for case in SOME {
        args.extend(["--only", case]);
    }
    run_for_long(fanfare(&args))
}

#[track_caller]
fn report(ended: Ended) -> Value {
    let report: Value = serde_json::from_str(&ended.ok()).unwrap();
    assert_eq!(report["failed"], 0, "{report}");
    report
}

/// Starts it and ends it in the middle; answers the name under which it made everything.
fn interrupted(url: &str) -> String {
    let running = Running::start(fanfare(&["conformance", url]));
    let line = running.error_with("everything is made under ");
    running.signal("INT");
    let ended = running.end();
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("interrupted"), "{ended:?}");
    line.split(' ').nth(4).unwrap().to_owned()
}

/// As its owner does: the default stream is theirs.
async fn use_it(server: &Broker) {
    let bus = fanfare::connect(&server.url()).await.unwrap();
    bus.shutdown(Duration::ZERO).await.unwrap();
}

fn keys(server: &Broker) -> Vec<String> {
    let client = redis_command(server, &["KEYS", "*"]);
    client.lines().map(str::to_owned).collect()
}

fn redis_command(server: &Broker, words: &[&str]) -> String {
    let mut command = std::process::Command::new("redis-cli");
    command.args(["-p", &server.address().port().to_string()]);
    let output = command.args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn nothing_is_left_on_a_redis_but_what_was_there() {
    let server = Broker::start(redis(), Durability::Periodic).await.unwrap();
    redis_command(&server, &["SET", "{scratch", "somebody's"]);
    let report = report(some(&server.url()));
    assert!(report["passed"].as_u64().unwrap() > 20, "{report}");
    let cases = report["cases"].as_array().unwrap();
    let untried: Vec<_> = cases
        .iter()
        .filter(|case| case["outcome"] == "not_tried")
        .collect();
    assert_eq!(untried.len(), 1, "{untried:?}");
    assert_eq!(
        untried[0]["name"],
        "a_lost_stream_goes_on_and_its_loss_is_told_once"
    );
    assert_eq!(keys(&server), ["{scratch"]);

    interrupted(&server.url());
    assert_eq!(keys(&server), ["{scratch"]);
}

async fn schemas(server: &Broker) -> Vec<String> {
    let (client, connection) = tokio_postgres::connect(&server.url(), NoTls).await.unwrap();
    let driving = tokio::spawn(connection);
    let asked = "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'fanfare%'";
    let rows = client.query(asked, &[]).await.unwrap();
    drop(client);
    driving.await.unwrap().unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn nothing_is_left_in_a_postgres_but_what_was_there() {
    let server = Broker::start(postgres(), Durability::Periodic)
        .await
        .unwrap();
    use_it(&server).await;
    let report = report(some(&server.url()));
    assert!(report["passed"].as_u64().unwrap() > 20, "{report}");
    assert_eq!(schemas(&server).await, ["fanfare"]);

    interrupted(&server.url());
    assert_eq!(schemas(&server).await, ["fanfare"]);
}

#[tokio::test]
async fn nothing_is_left_on_a_nats_server_but_what_was_there() {
    let server = Broker::start(nats(), Durability::Periodic).await.unwrap();
    let left = || {
        let streams = server.dir().join("jetstream").join("$G").join("streams");
        let found = fs::read_dir(streams).into_iter().flatten().flatten();
        let names = found.map(|entry| entry.file_name());
        names.collect::<BTreeSet<_>>()
    };
    use_it(&server).await;
    let before = left();
    assert_eq!(before.len(), 2, "{before:?}");
    report(some(&server.url()));
    assert_eq!(left(), before);
    interrupted(&server.url());
    assert_eq!(left(), before);
}

/// A file or more of each quorum queue.
fn queues(server: &Broker) -> BTreeSet<PathBuf> {
    let data = fs::read_dir(server.dir().join("data")).unwrap().flatten();
    let nodes = data.map(|entry| entry.path().join("quorum"));
    let within = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
    let nodes = nodes.flat_map(within).map(|entry| entry.path());
    let queues = nodes.filter(|path| path.is_dir()).flat_map(within);
    let dirs = queues.map(|entry| entry.path());
    dirs.filter(|path| path.is_dir()).collect()
}

#[tokio::test]
async fn nothing_is_left_on_a_rabbitmq_but_what_was_there() {
    let server = Broker::start(rabbitmq(), Durability::Periodic)
        .await
        .unwrap();
    use_it(&server).await;
    let before = queues(&server);
    assert!(!before.is_empty());
    let report = report(some(&server.url()));
    assert!(report["passed"].as_u64().unwrap() > 20, "{report}");
    assert_eq!(queues(&server), before);
    interrupted(&server.url());
    assert_eq!(queues(&server), before);
}

#[test]
fn nothing_is_left_beside_a_database() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().display());
    let report = report(some(&url));
    assert_eq!(report["not_tried"], 0, "{report}");
    interrupted(&url);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_whole_run_measures_and_writes_what_it_found() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.json");
    let mut command = fanfare(&["conformance", "memory:", "--output"]);
    command.arg(&file);
    let said = run_for_long(command).ok();
    assert!(
        said.contains("a lone event, from publish to handler"),
        "{said}"
    );
    assert!(said.contains("not tried: killing or stopping"), "{said}");
    let report: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(report["duplicates"], 0, "{report}");
    assert!(report["idle_latency_ms"]["p99"].as_f64().unwrap() > 0.0);
    assert!(report["recovery_ms"].is_null());
    let case = &report["cases"][0];
    for member in ["name", "promise", "outcome", "seconds"] {
        assert!(!case[member].is_null(), "{member}: {case}");
    }
}

#[test]
fn a_server_that_is_not_there_is_one_answer() {
    let failed = run(fanfare(&["conformance", "redis://127.0.0.1:1"])).failed(1);
    assert!(!failed.contains("scratch_"), "{failed}");
    let url = "redis://127.0.0.1:1?wire=crud-audit";
    let refused = run(fanfare(&["conformance", url])).failed(2);
    assert!(refused.contains("wire=cloudevents"), "{refused}");
}
