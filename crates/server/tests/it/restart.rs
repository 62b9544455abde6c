//! What outlives a restart of the server.

use std::sync::Arc;

use fanfare::core::backend::Backend;
use fanfare_server::ServerConfig;
use serde_json::json;

use crate::harness::{Running, start_on};
use crate::sse::Stream;

async fn on(backend: &Arc<dyn Backend>) -> Running {
    start_on(backend.clone(), ServerConfig::default()).await
}

/// Stops the server and leaves the backend as it is.
async fn stop(mut server: Running) {
    server.stop();
    server.stopped().await;
}

#[tokio::test]
async fn a_tail_resumes_over_a_restart_without_gap_or_repeat() {
    let backend = fanfare::backend("memory:").await.unwrap();
    let mut server = on(&backend).await;
    let mut tail = Stream::open(server.get("/v1/tail")).await;
    let (mut seen, mut last) = (Vec::new(), String::new());
    for round in 0..3 {
        for n in 0..50 {
            let id = (round * 50 + n).to_string();
            server.publish(json!({ "type": "a", "id": id })).await;
        }
        for _ in 0..25 {
            let message = tail.next().await.unwrap();
            seen.push(message.data["event"]["id"].as_str().unwrap().to_owned());
            last = message.id;
        }
        // What was on the wire already still counts: the client saw it before `bye`.
        server.stop();
        while let Some(message) = tail.next().await {
            if message.event == "bye" {
                break;
            }
            seen.push(message.data["event"]["id"].as_str().unwrap().to_owned());
            last = message.id;
        }
        server.stopped().await;
        server = on(&backend).await;
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
    let backend = fanfare::backend("memory:").await.unwrap();
    let server = on(&backend).await;
    server.subscribe("s", "a").await;
    server.publish(json!({ "type": "a" })).await;
    let pulled = server.pull("s", 1).await;
    stop(server).await;
    let server = on(&backend).await;
    assert_eq!(server.settle("s", "ack", &pulled).await[0]["ok"], true);
    assert_eq!(
        server.read("/v1/audit").await["subscriptions"][0]["acknowledged"],
        1
    );
}

#[tokio::test]
async fn a_cursor_outlives_a_restart() {
    let backend = fanfare::backend("memory:").await.unwrap();
    let server = on(&backend).await;
    for id in ["1", "2"] {
        server.publish(json!({ "type": "a", "id": id })).await;
    }
    let page = server.read("/v1/events?type=a&limit=1").await;
    let next = page["next"].as_str().unwrap().to_owned();
    stop(server).await;
    let server = on(&backend).await;
    let page = server
        .read(&format!("/v1/events?type=a&cursor={next}"))
        .await;
    assert_eq!(page["events"][0]["event"]["id"], "2");
}
