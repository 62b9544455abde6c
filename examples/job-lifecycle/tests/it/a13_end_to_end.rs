//! A13: both services by hand, and each with a service that knows nothing of us.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};

use super::stage::{Stage, created, event, some_id};

/// What the README says to paste, block by block.
fn pasted() -> Vec<String> {
    let readme = include_str!("../../README.md");
    let blocks = readme.split("```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a13_every_line_of_the_readme_does_what_it_says() {
    let stage = Stage::running().await;
    let mut all = String::from("set -e\n");
    for block in pasted() {
        all += &block
            .replace("http://localhost:8050", &stage.sources.url())
            .replace("http://localhost:8060", &stage.crawler.url());
        // Whoever pastes is slower than this.
        all += "sleep 1\n";
    }
    let mut shell = Command::new("bash");
    shell.env("REDIS_PORT", stage.redis.address().port().to_string());
    let said = shell.arg("-c").arg(all).output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr),
    );
    assert!(said.status.success(), "{out}{err}");
    for expected in [
        "SOURCE_CREATED",
        "SOURCE_DISABLED",
        "\"auto_managed\":true",
        "paused",
        "crawler-workers",
    ] {
        assert!(out.contains(expected), "{expected} in {out}{err}");
    }
}

#[tokio::test]
async fn a13_a_foreign_publisher_is_followed() {
    let stage = Stage::crawling().await;
    let source = some_id();
    stage.they_publish(&created(&source, 0)).await;
    stage.job(&source, |job| job["status"] == "active").await;
    let why = json!({"reason": "maintenance", "toggled_by": "system"});
    stage
        .they_publish(&event("SOURCE_DISABLED", &source, 1, why))
        .await;
    stage.job(&source, |job| job["status"] == "paused").await;
    stage.settled().await;
}

type Entries = Vec<(String, BTreeMap<String, String>)>;

#[tokio::test]
async fn a13_a_foreign_consumer_reads_what_we_publish() {
    let mut stage = Stage::set().await;
    stage.sources.start();
    stage
        .command(&[
            "XGROUP",
            "CREATE",
            "source-events",
            "theirs",
            "0",
            "MKSTREAM",
        ])
        .await;
    let new = json!({"name": "n", "url": "http://example.com", "rate_limit": "10/s"});
    let source = stage.sources.post("/api/v1/sources", &new).await;
    let read = [
        "XREADGROUP",
        "GROUP",
        "theirs",
        "one",
        "COUNT",
        "10",
        "BLOCK",
        "5000",
        "STREAMS",
        "source-events",
        ">",
    ];
    let streams: Vec<(String, Entries)> =
        redis::from_redis_value(stage.command(&read).await).unwrap();
    let (_, entries) = &streams[0];
    let (entry, fields) = &entries[0];
    let event: Value = serde_json::from_str(&fields["event"]).unwrap();
    assert_eq!(
        (&event["event_type"], &event["source_id"]),
        (&json!("SOURCE_CREATED"), &source["id"])
    );
    assert_eq!(event["payload"]["rate_limit"], 10);
    let acked = stage
        .command(&["XACK", "source-events", "theirs", entry])
        .await;
    assert_eq!(acked, redis::Value::Int(1));
}
