//! What is bounded, and what a client hears beyond the bound.

use std::fmt::Write as _;
use std::time::Duration;

use fanfare_server::{Limits, ServerConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{PATIENCE, Running, answer, refused, start, start_on, start_with};

async fn with_limits(limits: Limits) -> Running {
    start_with(ServerConfig {
        limits,
        ..ServerConfig::default()
    })
    .await
}

async fn connect(server: &Running) -> TcpStream {
    let address = server.url.strip_prefix("http://").unwrap();
    TcpStream::connect(address).await.unwrap()
}

/// Everything that comes until the server closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = stream.read_to_end(&mut text);
    let _ = tokio::time::timeout(PATIENCE, read).await.unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let limits = Limits::default();
    assert_eq!(limits.body_bytes, 1_048_576);
    assert_eq!(limits.batch_bytes, 8_388_608);
    assert_eq!(limits.batch_events, 1_000);
    assert_eq!(limits.pull_wait, Duration::from_mins(1));
}

#[tokio::test]
async fn a_body_above_its_limit_is_413() {
    let server = start().await;
    let text = "x".repeat(1 << 20);
    let post = server
        .post("/v1/events")
        .json(&json!({ "type": "a", "data": text }));
    refused(post, 413, "too_large").await;
    let put = server
        .put("/v1/subscriptions/s")
        .json(&json!({ "pattern": text }));
    refused(put, 413, "too_large").await;
}

#[tokio::test]
async fn a_batch_may_be_larger_but_not_without_end() {
    let server = start().await;
    let event = json!({ "type": "a", "data": "x".repeat(100_000) });
    for batch in [vec![event.clone(); 40], vec![event; 90]] {
        let post = server.post("/v1/events").json(&batch);
        if batch.len() == 40 {
            answer(post, 200).await;
        } else {
            refused(post, 413, "too_large").await;
        }
    }
    for media_type in ["application/json", "application/cloudevents-batch+json"] {
        let many = vec![json!({ "type": "a" }); 1_001];
        let post = server.post("/v1/events").header("content-type", media_type);
        refused(post.body(Value::from(many).to_string()), 413, "too_large").await;
    }
}

#[tokio::test]
async fn data_above_256_kib_are_413() {
    let server = start().await;
    let post = |bytes: usize| {
        let data = "x".repeat(bytes - 2);
        server
            .post("/v1/events")
            .json(&json!({ "type": "a", "data": data }))
    };
    answer(post(256 * 1024), 201).await;
    refused(post(256 * 1024 + 1), 413, "too_large").await;
    refused(post(300_000), 413, "too_large").await;
}

#[tokio::test]
async fn a_full_stream_is_507_and_nothing_is_lost() {
    let backend = fanfare::backend("memory:?max_events=3").await.unwrap();
    let server = start_on(backend, ServerConfig::default()).await;
    server.subscribe("s", "a").await;
    for _ in 0..3 {
        server.publish(json!({ "type": "a" })).await;
    }
    let post = || server.post("/v1/events").json(&json!({ "type": "a" }));
    refused(post(), 507, "full").await;
    let batch = server.post("/v1/events").json(&json!([{ "type": "a" }]));
    answer(batch, 507).await;
    let pulled = server.pull("s", 3).await;
    assert_eq!(pulled.len(), 3);
    server.settle("s", "ack", &pulled).await;
    answer(post(), 201).await;
}

#[tokio::test]
async fn too_much_at_once_is_429() {
    let server = with_limits(Limits {
        publishing: 0,
        tails: 0,
        pulls: 0,
        ..Limits::default()
    })
    .await;
    server.subscribe("s", "a").await;
    refused(
        server.post("/v1/events").json(&json!({ "type": "a" })),
        429,
        "busy",
    )
    .await;
    refused(server.get("/v1/tail"), 429, "busy").await;
    refused(server.post("/v1/subscriptions/s/pull"), 429, "busy").await;
}

#[tokio::test]
async fn bodies_take_no_more_memory_than_allowed() {
    let server = with_limits(Limits {
        bodies_bytes: 1_000,
        ..Limits::default()
    })
    .await;
    let post = |bytes: usize| {
        let event = json!({ "type": "a", "data": "x".repeat(bytes) });
        server.post("/v1/events").json(&event)
    };
    refused(post(1_000), 429, "busy").await;
    // What was taken was given back.
    for _ in 0..3 {
        answer(post(800), 201).await;
    }
}

#[tokio::test]
async fn large_answers_end_early_and_lose_nothing() {
    let server = with_limits(Limits {
        answer_bytes: 1_000,
        ..Limits::default()
    })
    .await;
    server.subscribe("s", "a").await;
    for id in 0..20 {
        let data = "x".repeat(300);
        server
            .publish(json!({ "type": "a", "id": id.to_string(), "data": data }))
            .await;
    }
    let mut path = "/v1/events?limit=1000".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = server.read(&path).await;
        let items = page["events"].as_array().unwrap();
        assert!(items.len() <= 4, "{}", items.len());
        seen.extend(items.iter().map(|item| item["event"]["id"].clone()));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/v1/events?limit=1000&cursor={next}");
    }
    let expected: Vec<Value> = (0..20).map(|id| id.to_string().into()).collect();
    assert_eq!(seen, expected);
    let (mut pulled, mut letters) = (0, 0);
    while pulled < 20 {
        let deliveries = server.pull("s", 1_000).await;
        assert!(deliveries.len() <= 4 && deliveries.iter().all(|d| d["attempt"] == 1));
        pulled += deliveries.len();
        server.settle("s", "dead_letter", &deliveries).await;
    }
    let mut path = "/v1/dead-letters?limit=1000".to_owned();
    loop {
        let page = server.read(&path).await;
        letters += page["dead_letters"].as_array().unwrap().len();
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/v1/dead-letters?limit=1000&cursor={next}");
    }
    assert_eq!(letters, 20);
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_head_is_closed() {
    let server = with_limits(Limits {
        header_timeout: Duration::from_millis(50),
        ..Limits::default()
    })
    .await;
    let mut slow = connect(&server).await;
    slow.write_all(b"GET /livez HTTP/1.1\r\nhost: lo")
        .await
        .unwrap();
    let text = rest(&mut slow).await;
    assert!(
        text.is_empty() || text.starts_with("HTTP/1.1 408"),
        "{text}"
    );
    let mut idle = connect(&server).await;
    rest(&mut idle).await;
}

#[tokio::test]
async fn a_client_that_pauses_in_its_body_is_408() {
    let server = with_limits(Limits {
        body_idle: Duration::from_millis(50),
        ..Limits::default()
    })
    .await;
    let mut slow = connect(&server).await;
    let head = "POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 100\r\n\r\n{";
    slow.write_all(head.as_bytes()).await.unwrap();
    let text = rest(&mut slow).await;
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    assert!(text.contains("too_slow"), "{text}");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed() {
    let server = with_limits(Limits {
        body_idle: Duration::from_millis(50),
        tail_patience: Duration::from_mins(1),
        ..Limits::default()
    })
    .await;
    let mut deaf = connect(&server).await;
    deaf.write_all(b"GET /v1/tail HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut begin = [0_u8; 12];
    deaf.read_exact(&mut begin).await.unwrap();
    assert_eq!(&begin, b"HTTP/1.1 200");
    let data = "x".repeat(250_000);
    for _ in 0..80 {
        server.publish(json!({ "type": "a", "data": data })).await;
    }
    let closed = async {
        while server.read("/v1/stats").await["server"]["tails"] != 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
}

#[tokio::test]
async fn more_connections_than_allowed_wait() {
    let server = with_limits(Limits {
        connections: 1,
        ..Limits::default()
    })
    .await;
    let mut first = connect(&server).await;
    let mut second = connect(&server).await;
    let request = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    second.write_all(request).await.unwrap();
    first.write_all(request).await.unwrap();
    assert!(rest(&mut first).await.starts_with("HTTP/1.1 200"));
    assert!(rest(&mut second).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn too_many_headers_are_refused() {
    let server = start().await;
    let mut stream = connect(&server).await;
    let mut head = String::from("GET /livez HTTP/1.1\r\nhost: localhost\r\n");
    for n in 0..200 {
        write!(head, "x-{n}: 1\r\n").unwrap();
    }
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(b"\r\n").await.unwrap();
    let text = rest(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 431"), "{text}");
}

#[tokio::test]
async fn headers_given_twice_are_malformed() {
    let server = start().await;
    let post = server.post("/v1/events").header("idempotency-key", "a");
    let post = post
        .header("idempotency-key", "b")
        .json(&json!({ "type": "a" }));
    refused(post, 400, "malformed").await;
}
