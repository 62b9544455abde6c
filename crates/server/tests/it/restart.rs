//! What outlives a restart of the server with its data on disk.

use fanfare_server::ServerConfig;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Running, answer, refused, start_on};
use crate::sse::Stream;

async fn on(dir: &TempDir) -> Running {
    let url = format!("sqlite:{}", dir.path().display());
    let backend = fanfare::backend(&url).await.unwrap();
    start_on(backend, ServerConfig::default()).await
}

#[tokio::test]
async fn a_tail_resumes_over_a_restart_without_gap_or_repeat() {
    let dir = TempDir::new().unwrap();
    let mut server = on(&dir).await;
    let mut tail = Stream::open(server.get("/v1/tail")).await;
    let (mut seen, mut last) = (Vec::new(), String::new());
    for round in 0..3 {
        for n in 0..50 {
            let id = (round * 50 + n).to_string();
            server.publish(json!({ "type": "a", "id": id })).await;
        }
        // The client is in the middle of what there is when the server goes.
        for _ in 0..25 {
            let message = tail.next().await.unwrap();
            seen.push(message.data["event"]["id"].as_str().unwrap().to_owned());
            last = message.id;
        }
        drop(tail);
        server.shut_down().await;
        server = on(&dir).await;
        tail = Stream::open(server.get("/v1/tail").header("last-event-id", &last)).await;
    }
    while seen.len() < 150 {
        seen.extend(tail.ids(1).await);
    }
    let expected: Vec<String> = (0..150).map(|id| id.to_string()).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn what_was_pulled_is_settled_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let server = on(&dir).await;
    server.subscribe("s", "a").await;
    for id in ["1", "2"] {
        server.publish(json!({ "type": "a", "id": id })).await;
    }
    let pulled = server.pull("s", 1).await;
    server.shut_down().await;
    let server = on(&dir).await;
    let other = server.pull("s", 10).await;
    assert_eq!(other.len(), 1, "the lease of the first outlives the server");
    assert_eq!(other[0]["event"]["id"], "2");
    let extension = json!({ "deliveries": [pulled[0]["delivery"]], "lease": "10m" });
    let extended = server.call("/v1/subscriptions/s/extend", extension).await;
    assert_eq!(extended["results"][0]["ok"], true, "{extended}");
    assert_eq!(server.settle("s", "ack", &pulled).await[0]["ok"], true);
    assert_eq!(
        server.settle("s", "ack", &pulled).await[0]["reason"],
        "settled"
    );
    let audit = server.read("/v1/audit").await;
    assert_eq!(audit["ok"], true);
    assert_eq!(audit["subscriptions"][0]["acknowledged"], 1);
    assert_eq!(audit["subscriptions"][0]["in_flight"], 1);
}

#[tokio::test]
async fn an_idempotency_key_and_a_cursor_outlive_a_restart() {
    let dir = TempDir::new().unwrap();
    let server = on(&dir).await;
    let keyed = |server: &Running| {
        let post = server.post("/v1/events").header("idempotency-key", "k");
        post.json(&json!({ "type": "a" }))
    };
    let first = answer(keyed(&server), 201).await;
    server.publish(json!({ "type": "a", "id": "2" })).await;
    let page = server.read("/v1/events?type=a&limit=1").await;
    let next = page["next"].as_str().unwrap().to_owned();
    server.shut_down().await;
    let server = on(&dir).await;
    let again = answer(keyed(&server), 200).await;
    assert_eq!(again["position"], first["position"]);
    assert_eq!(again["duplicate"], true);
    let page = server
        .read(&format!("/v1/events?type=a&cursor={next}"))
        .await;
    assert_eq!(page["events"][0]["event"]["id"], "2");
}

#[tokio::test]
async fn subscriptions_dead_letters_and_pauses_outlive_a_restart() {
    let dir = TempDir::new().unwrap();
    let server = on(&dir).await;
    server.subscribe("s", "a").await;
    for id in ["1", "2"] {
        server.publish(json!({ "type": "a", "id": id })).await;
    }
    let pulled = server.pull("s", 1).await;
    server.settle("s", "dead_letter", &pulled).await;
    answer(server.post("/v1/subscriptions/s/pause"), 200).await;
    let before = server.read("/v1/dead-letters").await;
    let info = server.read("/v1/subscriptions/s").await;
    server.shut_down().await;
    let server = on(&dir).await;
    assert_eq!(server.read("/v1/dead-letters").await, before);
    assert_eq!(server.read("/v1/subscriptions/s").await, info);
    assert_eq!(server.read("/v1/events/1").await["status"], "failed");
    refused(server.delete("/v1/subscriptions/s"), 409, "conflict").await;
    let filter = json!({ "filter": {}, "rate": 100 });
    let redriven = server.call("/v1/dead-letters/redrive", filter).await;
    assert_eq!(redriven, json!({ "matched": 1, "redriven": 1 }));
    answer(server.post("/v1/subscriptions/s/resume"), 200).await;
    let mut pulled = server.pull("s", 10).await;
    while pulled.len() < 2 {
        pulled.extend(server.pull("s", 10).await);
    }
    server.settle("s", "ack", &pulled).await;
    assert_eq!(server.read("/v1/audit").await["ok"], true);
    answer(server.delete("/v1/subscriptions/s"), 204).await;
}
