//! `GET /v1/tail`: following live, resuming, being told.

use std::time::Duration;

use fanfare_server::{Limits, ServerConfig};
use reqwest::RequestBuilder;
use serde_json::json;

use crate::harness::{PATIENCE, Running, refused, start, start_on, start_with};
use crate::sse::Stream;

async fn publish(server: &Running, id: &str, event_type: &str) -> String {
    let stored = server
        .publish(json!({ "type": event_type, "id": id }))
        .await;
    stored["position"].as_str().unwrap().to_owned()
}

async fn open(request: RequestBuilder) -> Stream {
    Stream::open(request).await
}

fn with_limits(limits: Limits) -> ServerConfig {
    ServerConfig {
        limits,
        ..ServerConfig::default()
    }
}

#[tokio::test]
async fn a_tail_starts_now_and_sends_what_matches() {
    let server = start().await;
    publish(&server, "before", "a.b").await;
    let mut tail = open(server.get("/v1/tail?type=a.*&type=c")).await;
    let first = publish(&server, "1", "a.b").await;
    publish(&server, "2", "b.b").await;
    publish(&server, "3", "c").await;
    let message = tail.next().await.unwrap();
    assert_eq!(message.event, "message");
    assert_eq!(message.id, first);
    assert_eq!(message.data["position"], first.as_str());
    assert_eq!(message.data["event"]["id"], "1");
    assert_eq!(tail.next().await.unwrap().data["event"]["id"], "3");
}

#[tokio::test]
async fn since_begins_in_the_past() {
    let server = start().await;
    for id in ["1", "2"] {
        publish(&server, id, "a").await;
    }
    let mut tail = open(server.get("/v1/tail?since=1h")).await;
    publish(&server, "3", "a").await;
    assert_eq!(tail.ids(3).await, ["1", "2", "3"]);
}

#[tokio::test]
async fn last_event_id_resumes_without_gap_or_repeat() {
    let server = start().await;
    let mut tail = open(server.get("/v1/tail")).await;
    for id in 0..300 {
        publish(&server, &id.to_string(), "a").await;
    }
    let mut seen = Vec::new();
    while seen.len() < 300 {
        let message = tail.next().await.unwrap();
        seen.push(message.data["event"]["id"].as_str().unwrap().to_owned());
        if seen.len() % 70 == 0 {
            let resumed = server.get("/v1/tail?since=1h");
            tail = open(resumed.header("last-event-id", message.id)).await;
        }
    }
    let expected: Vec<String> = (0..300).map(|id| id.to_string()).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn bad_requests_are_refused_before_the_stream_begins() {
    let server = start().await;
    let resumed = server.get("/v1/tail").header("last-event-id", "x");
    refused(resumed, 400, "malformed").await;
    for query in ["type=a..b", "since=never", "limit=1"] {
        refused(
            server.get(&format!("/v1/tail?{query}")),
            400,
            "invalid_query",
        )
        .await;
    }
}

#[tokio::test]
async fn a_gap_that_retention_made_is_told() {
    let backend = fanfare::backend("memory:?max_events=4").await.unwrap();
    let server = start_on(backend, ServerConfig::default()).await;
    let first = publish(&server, "0", "a").await;
    for id in 1..=9 {
        publish(&server, &id.to_string(), "a").await;
    }
    let kept = server.read("/v1/events").await;
    let kept = kept["events"].as_array().unwrap();
    let mut tail = open(server.get("/v1/tail").header("last-event-id", &first)).await;
    let gap = tail.next().await.unwrap();
    assert_eq!(gap.event, "gap");
    assert_eq!(
        gap.data,
        json!({ "from": first, "to": kept[0]["position"] })
    );
    for item in kept {
        assert_eq!(
            tail.next().await.unwrap().id,
            item["position"].as_str().unwrap()
        );
    }
}

#[tokio::test]
async fn a_quiet_tail_gets_comments() {
    let heartbeat = Duration::from_millis(20);
    let server = start_with(with_limits(Limits {
        tail_heartbeat: heartbeat,
        ..Limits::default()
    }))
    .await;
    let mut tail = open(server.get("/v1/tail")).await;
    let quiet = async {
        while tail.comments < 3 {
            tail.read_more().await;
        }
    };
    tokio::time::timeout(PATIENCE, quiet).await.unwrap();
    assert_eq!(Limits::default().tail_heartbeat, Duration::from_secs(15));
}

#[tokio::test]
async fn a_draining_server_says_bye() {
    let mut server = start().await;
    let mut tail = open(server.get("/v1/tail")).await;
    publish(&server, "1", "a").await;
    assert_eq!(tail.ids(1).await, ["1"]);
    server.stop();
    let bye = tail.next().await.unwrap();
    assert_eq!((bye.event.as_str(), bye.data), ("bye", json!({})));
    assert!(tail.next().await.is_none());
    server.stopped().await;
}

#[tokio::test]
async fn a_slow_client_is_cut_off_and_told_what_it_missed() {
    let server = start_with(with_limits(Limits {
        tail_queue: 1,
        tail_patience: Duration::from_millis(1),
        ..Limits::default()
    }))
    .await;
    let mut tail = open(server.get("/v1/tail")).await;
    // More than the buffers of a socket hold.
    let data = "x".repeat(250_000);
    for id in 0..80 {
        server
            .publish(json!({ "type": "a", "id": id.to_string(), "data": data }))
            .await;
    }
    let mut received = 0;
    let mut last = String::new();
    let lagged = loop {
        let message = tail.next().await.expect("the stream ended without a word");
        if message.event != "message" {
            break message;
        }
        received += 1;
        last = message.id;
    };
    assert_eq!(lagged.event, "lagged");
    assert_eq!(lagged.data, json!({ "skipped": 80 - received }));
    assert!(tail.next().await.is_none(), "closed after that");
    let mut resumed = open(server.get("/v1/tail").header("last-event-id", last)).await;
    assert_eq!(resumed.ids(1).await, [received.to_string()]);
}

#[tokio::test]
async fn too_many_tails_are_429() {
    let server = start_with(with_limits(Limits {
        tails: 1,
        ..Limits::default()
    }))
    .await;
    let tail = open(server.get("/v1/tail")).await;
    refused(server.get("/v1/tail"), 429, "busy").await;
    drop(tail);
    let freed = async {
        while server.read("/v1/stats").await["server"]["tails"] != 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.unwrap();
    open(server.get("/v1/tail")).await;
}
