//! `fanfare doctor` where settings lose events: each is named, with what it costs and what to do.

use std::time::Duration;

use fanfare_conformance::broker::{Broker, Durability, postgres, redis};
use serde_json::Value;

use crate::process::{fanfare, run};

/// What it finds, by what was looked at.
struct Found(Vec<Value>);

impl Found {
    #[track_caller]
    fn is(&self, check: &str, state: &str, todo: &str) {
        let of_check = self.0.iter().find(|finding| finding["check"] == check);
        let finding = of_check.unwrap_or_else(|| panic!("no {check}: {:?}", self.0));
        assert_eq!(finding["state"], state, "{finding}");
        let said = finding["todo"].as_str().unwrap_or_default();
        assert!(said.contains(todo), "{finding}");
        assert_eq!(said.is_empty(), state == "ok", "{finding}");
    }
}

fn look(url: &str) -> Found {
    let mut command = fanfare(&["doctor", "--json", "--backend", url]);
    command.env("FANFARE_SERVER", "http://127.0.0.1:9");
    let ended = run(command);
    let findings = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let findings: Vec<Value> = findings.collect();
    let bad = findings.iter().any(|finding| finding["state"] == "bad");
    assert_eq!(ended.code, i32::from(bad), "{ended:?}");
    Found(findings)
}

fn set(server: &Broker, name: &str, value: &str) {
    let port = server.address().port().to_string();
    let mut command = std::process::Command::new("redis-cli");
    command.args(["-p", &port, "CONFIG", "SET", name, value]);
    let said = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "OK");
}

#[tokio::test]
async fn a_redis_that_forgets_is_told_from_one_that_does_not() {
    let server = Broker::start(redis(), Durability::Off).await.unwrap();
    let found = look(&server.url());
    found.is("appendonly", "bad", "appendonly yes");
    found.is("maxmemory", "note", "max_bytes");

    set(&server, "appendonly", "yes");
    set(&server, "appendfsync", "everysec");
    set(&server, "maxmemory-policy", "allkeys-lru");
    let found = look(&server.url());
    found.is("appendfsync", "note", "appendfsync always");
    found.is("maxmemory-policy", "bad", "noeviction");

    set(&server, "appendfsync", "always");
    set(&server, "maxmemory-policy", "noeviction");
    set(&server, "maxmemory", "100mb");
    let found = look(&server.url());
    found.is("appendfsync", "ok", "");
    found.is("maxmemory", "ok", "");
    found.is("version", "ok", "");

    let found = look(&format!("{}?wait_replicas=1", server.url()));
    found.is("replicas", "bad", "wait_replicas");
}

#[tokio::test]
async fn a_postgres_that_does_not_flush_is_told_from_one_that_does() {
    let found = of_postgres(Durability::Off).await;
    found.is("fsync", "bad", "fsync = on");
    found.is("full_page_writes", "bad", "full_page_writes = on");
    found.is("synchronous_commit", "bad", "synchronous_commit = on");
    found.is(
        "open transactions",
        "note",
        "idle_in_transaction_session_timeout",
    );

    // Before there is a stream, too.
    let server = Broker::start(postgres(), Durability::Off).await.unwrap();
    look(&server.url()).is("fsync", "bad", "fsync = on");

    let found = of_postgres(Durability::Always).await;
    for check in ["version", "fsync", "synchronous_commit", "connections"] {
        found.is(check, "ok", "");
    }
    let pooler = |finding: &Value| finding["check"] == "pooler";
    assert!(!found.0.iter().any(pooler), "there is none: {:?}", found.0);
}

/// Of a stream that is there: a doctor makes none.
async fn of_postgres(durability: Durability) -> Found {
    let server = Broker::start(postgres(), durability).await.unwrap();
    let bus = fanfare::connect(&server.url()).await.unwrap();
    bus.shutdown(Duration::ZERO).await.unwrap();
    look(&server.url())
}

#[cfg(target_os = "linux")]
#[test]
fn a_database_in_memory_is_told_from_one_on_a_disk() {
    for (place, state, todo) in [
        ("/dev/shm", "bad", "on a disk"),
        (env!("CARGO_TARGET_TMPDIR"), "ok", ""),
    ] {
        let dir = tempfile::tempdir_in(place).unwrap();
        let url = format!("sqlite:{}", dir.path().display());
        let opened = tokio::runtime::Runtime::new().unwrap().block_on(async {
            let bus = fanfare::connect(&url).await?;
            bus.shutdown(Duration::ZERO).await
        });
        opened.unwrap();
        look(&url).is("disk", state, todo);
    }
}
