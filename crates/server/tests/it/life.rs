//! Three subscriptions through failures, dead letters and a redrive, with nothing lost at any moment.

use std::collections::BTreeSet;

use fanfare_server::ServerConfig;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Running, answer, start_on};

const EVENTS: u64 = 210;

fn number(delivery: &Value) -> u64 {
    delivery["event"]["data"]["n"].as_u64().unwrap()
}

/// Pulls and settles until nothing is unsettled; `fails` says which attempts fail.
async fn drain(server: &Running, name: &str, fails: fn(u64, u64) -> bool) {
    loop {
        let pulled = server.pull(name, 50).await;
        let settlements: Vec<Value> = pulled
            .iter()
            .map(|d| {
                let attempt = d["attempt"].as_u64().unwrap();
                let failed = fails(number(d), attempt);
                let outcome = if failed { "retry" } else { "ack" };
                json!({ "delivery": d["delivery"], "outcome": outcome, "reason": "it fails" })
            })
            .collect();
        let path = format!("/v1/subscriptions/{name}/settle");
        let body = server
            .call(&path, json!({ "settlements": settlements }))
            .await;
        for result in body["results"].as_array().unwrap() {
            assert_eq!(result["ok"], true);
        }
        let audit = server.read("/v1/audit").await;
        assert_eq!(audit["ok"], true, "{audit}");
        let info = server.read(&format!("/v1/subscriptions/{name}")).await;
        if info["counts"]["waiting"] == 0 && info["counts"]["in_flight"] == 0 {
            return;
        }
    }
}

async fn letters(server: &Running) -> BTreeSet<u64> {
    let page = server.read("/v1/dead-letters?limit=1000").await;
    page["dead_letters"]
        .as_array()
        .unwrap()
        .iter()
        .map(number)
        .collect()
}

#[tokio::test]
async fn failures_end_as_the_right_dead_letters_and_a_redrive_empties_them() {
    let dir = TempDir::new().unwrap();
    let url = format!("sqlite:{}", dir.path().display());
    let backend = fanfare::backend(&url).await.unwrap();
    let server = start_on(backend, ServerConfig::default()).await;
    for name in ["good", "seventh", "once"] {
        let retry = json!({ "max_attempts": 3, "initial": "1ms", "factor": 1, "jitter": false });
        let body = json!({ "pattern": "n.*", "retry": retry });
        let put = server.put(&format!("/v1/subscriptions/{name}")).json(&body);
        answer(put, 201).await;
    }
    let events = |range: std::ops::Range<u64>| -> Vec<Value> {
        range
            .map(|n| json!({ "type": "n.x", "data": { "n": n } }))
            .collect()
    };
    for start in (0..EVENTS).step_by(70) {
        server
            .call("/v1/events", events(start..start + 70).into())
            .await;
    }
    drain(&server, "good", |_, _| false).await;
    drain(&server, "once", |_, attempt| attempt == 1).await;
    drain(&server, "seventh", |n, _| n % 7 == 0).await;
    let expected: BTreeSet<u64> = (0..EVENTS).filter(|n| n % 7 == 0).collect();
    assert_eq!(letters(&server).await, expected);
    let failed = server.read("/v1/events?status=failed&limit=1000").await;
    assert_eq!(failed["events"].as_array().unwrap().len(), expected.len());
    let redrive = json!({ "filter": { "subscription": "seventh" }, "rate": 1000 });
    let redriven = server.call("/v1/dead-letters/redrive", redrive).await;
    let count = expected.len();
    assert_eq!(redriven, json!({ "matched": count, "redriven": count }));
    drain(&server, "seventh", |_, _| false).await;
    assert!(letters(&server).await.is_empty());
    let audit = server.read("/v1/audit").await;
    for subscription in audit["subscriptions"].as_array().unwrap() {
        assert_eq!(subscription["published"], EVENTS);
        assert_eq!(subscription["acknowledged"], EVENTS);
    }
}
