//! Pull, settle, extend: consuming from any language.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{PATIENCE, Running, answer, refused, start};

const PULL: &str = "/v1/subscriptions/s/pull";
const SETTLE: &str = "/v1/subscriptions/s/settle";
const EXTEND: &str = "/v1/subscriptions/s/extend";

/// A server with `n` events waiting in the subscription `s`.
async fn with_waiting(n: usize, options: Value) -> Running {
    let server = start().await;
    for id in 1..=n {
        server
            .publish(json!({ "type": "a", "id": id.to_string() }))
            .await;
    }
    let mut body = json!({ "pattern": "a", "start": "earliest" });
    let members = body.as_object_mut().unwrap();
    members.extend(options.as_object().unwrap().clone());
    answer(server.put("/v1/subscriptions/s").json(&body), 201).await;
    server
}

async fn counts(server: &Running) -> Value {
    server.read("/v1/subscriptions/s").await["counts"].clone()
}

#[tokio::test]
async fn a_pull_leases_at_most_ten_unless_told_otherwise() {
    let server = with_waiting(12, json!({})).await;
    let body = answer(server.post(PULL), 200).await;
    let deliveries = body["deliveries"].as_array().unwrap();
    assert_eq!(deliveries.len(), 10);
    let first = &deliveries[0];
    assert_eq!(first["attempt"], 1);
    assert_eq!(first["event"]["id"], "1");
    assert!(first["lease_until"].as_str().unwrap().ends_with('Z'));
    assert!(first["position"].is_string() && first["delivery"].is_string());
    assert_eq!(server.pull("s", 100).await.len(), 2);
    assert_eq!(
        server.call(PULL, json!({})).await,
        json!({ "deliveries": [] })
    );
}

#[tokio::test]
async fn a_pull_waits_for_the_first_event() {
    let server = with_waiting(0, json!({})).await;
    let pull = tokio::spawn(server.post(PULL).json(&json!({ "wait": "20s" })).send());
    server.publish(json!({ "type": "a", "id": "late" })).await;
    let body: Value = pull.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(body["deliveries"][0]["event"]["id"], "late");
}

#[tokio::test]
async fn the_limits_of_a_pull_are_kept() {
    let server = with_waiting(0, json!({})).await;
    for (body, pointer) in [
        (json!({ "max": 0 }), "/max"),
        (json!({ "max": 1001 }), "/max"),
        (json!({ "max": "1" }), "/max"),
        (json!({ "wait": "61s" }), "/wait"),
        (json!({ "wait": 5 }), "/wait"),
        (json!({ "mx": 5 }), "/mx"),
    ] {
        let pointers = refused(server.post(PULL).json(&body), 422, "invalid").await;
        assert_eq!(pointers, [pointer], "{body}");
    }
    refused(server.post("/v1/subscriptions/none/pull"), 404, "not_found").await;
}

#[tokio::test]
async fn each_outcome_does_what_it_says() {
    let server = with_waiting(5, json!({})).await;
    let pulled = server.pull("s", 5).await;
    let token = |index: usize| pulled[index]["delivery"].clone();
    let body = json!({ "settlements": [
        { "delivery": token(0), "outcome": "ack" },
        { "delivery": token(1), "outcome": "retry", "retry_after": "1ms", "reason": "busy" },
        { "delivery": token(2), "outcome": "dead_letter", "reason": "no such user" },
        { "delivery": token(3), "outcome": "drop" },
        { "delivery": token(4), "outcome": "release" },
    ]});
    let body = server.call(SETTLE, body).await;
    for (index, result) in body["results"].as_array().unwrap().iter().enumerate() {
        assert_eq!(*result, json!({ "delivery": token(index), "ok": true }));
    }
    let counts = counts(&server).await;
    assert_eq!(counts["acknowledged"], 1);
    assert_eq!(counts["dropped"], 1);
    assert_eq!(counts["dead"], 1);
    assert_eq!(counts["waiting"], 2);
    let mut again = server.pull("s", 5).await;
    while again.len() < 2 {
        again.extend(server.pull("s", 5).await);
    }
    again.sort_by_key(|d| d["event"]["id"].to_string());
    assert_eq!(again[0]["event"]["id"], "2");
    assert_eq!(again[0]["attempt"], 2, "a retry counts");
    assert_eq!(again[1]["event"]["id"], "5");
    assert_eq!(again[1]["attempt"], 1, "a release does not");
    let dead = server.read("/v1/dead-letters").await;
    assert_eq!(dead["dead_letters"][0]["reason"], "rejected");
    assert_eq!(dead["dead_letters"][0]["error"], "no such user");
}

#[tokio::test]
async fn a_retry_goes_by_the_policy_and_ends_in_a_dead_letter() {
    let retry = json!({ "retry": { "max_attempts": 2, "initial": "1ms", "jitter": false } });
    let server = with_waiting(1, retry).await;
    for attempt in 1..=2 {
        let pulled = server.pull("s", 1).await;
        assert_eq!(pulled[0]["attempt"], attempt);
        server.settle("s", "retry", &pulled).await;
    }
    let dead = server.read("/v1/dead-letters").await;
    assert_eq!(dead["dead_letters"][0]["reason"], "max_attempts");
    assert_eq!(dead["dead_letters"][0]["attempts"], 2);
    // With its own delay, too, a delivery has no more attempts than the policy gives.
    assert_eq!(counts(&server).await["waiting"], 0);
}

#[tokio::test]
async fn answers_come_in_order_with_late_settled_or_unknown() {
    let server = with_waiting(2, json!({ "lease": "100ms" })).await;
    let stale = server.pull("s", 1).await;
    // The lease ends; the next pull waits for that and takes the delivery over.
    let mut taken = server.pull("s", 2).await;
    while !taken.iter().any(|d| d["event"]["id"] == "1") {
        taken.extend(server.pull("s", 2).await);
    }
    let mine = taken.iter().rfind(|d| d["event"]["id"] == "1").unwrap();
    assert_ne!(mine["delivery"], stale[0]["delivery"]);
    server.settle("s", "ack", std::slice::from_ref(mine)).await;
    let tokens = [
        stale[0]["delivery"].clone(),
        mine["delivery"].clone(),
        json!("s.1.999-1"),
        json!("other.1.1-1"),
        json!("nonsense"),
    ];
    let settlements: Vec<Value> = tokens
        .iter()
        .map(|token| json!({ "delivery": token, "outcome": "ack" }))
        .collect();
    let settled = server
        .call(SETTLE, json!({ "settlements": settlements }))
        .await;
    let extended = server.call(EXTEND, json!({ "deliveries": tokens })).await;
    for body in [settled, extended] {
        let results = body["results"].as_array().unwrap();
        let reasons: Vec<_> = results
            .iter()
            .map(|r| r["reason"].as_str().unwrap())
            .collect();
        assert!(matches!(reasons[0], "late" | "settled"), "{body}");
        assert_eq!(reasons[1..], ["settled", "unknown", "unknown", "unknown"]);
        for (token, result) in tokens.iter().zip(results) {
            assert_eq!(result["delivery"], *token);
            assert_eq!(result["ok"], false);
        }
    }
}

#[tokio::test]
async fn an_extended_lease_holds() {
    let server = with_waiting(1, json!({ "lease": "300ms" })).await;
    let pulled = server.pull("s", 1).await;
    let body = json!({ "deliveries": [pulled[0]["delivery"]], "lease": "10m" });
    let extended = server.call(EXTEND, body).await;
    assert_eq!(extended["results"][0]["ok"], true);
    // Longer than the first lease: nobody takes it over meanwhile.
    let body = server.call(PULL, json!({ "wait": "1s" })).await;
    assert_eq!(body["deliveries"], json!([]));
    assert_eq!(server.settle("s", "ack", &pulled).await[0]["ok"], true);
    for lease in ["1ms", "13h", "soon"] {
        let body = json!({ "deliveries": [], "lease": lease });
        assert_eq!(
            refused(server.post(EXTEND).json(&body), 422, "invalid").await,
            ["/lease"]
        );
    }
}

#[tokio::test]
async fn every_violation_of_a_settlement_is_named() {
    let server = with_waiting(0, json!({})).await;
    let body = json!({ "settlements": [
        { "delivery": "x", "outcome": "nack" },
        { "outcome": "ack" },
        { "delivery": "x", "outcome": "ack", "retry_after": "5s" },
        { "delivery": "x", "outcome": "retry", "retry_after": "8d", "why": 1 },
        7,
    ]});
    let mut pointers = refused(server.post(SETTLE).json(&body), 422, "invalid").await;
    pointers.sort();
    let expected = [
        "/settlements/0/outcome",
        "/settlements/1/delivery",
        "/settlements/2/retry_after",
        "/settlements/3/retry_after",
        "/settlements/3/why",
        "/settlements/4",
    ];
    assert_eq!(pointers, expected);
    for path in [SETTLE, EXTEND] {
        let name = if path == SETTLE {
            "/settlements"
        } else {
            "/deliveries"
        };
        assert_eq!(refused(server.post(path), 422, "invalid").await, [name]);
    }
    let many = json!({ "deliveries": vec!["x"; 1001] });
    assert_eq!(
        refused(server.post(EXTEND).json(&many), 422, "invalid").await,
        ["/deliveries"]
    );
    let none = server.post("/v1/subscriptions/none/settle");
    refused(none.json(&json!({ "settlements": [] })), 404, "not_found").await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_takes_nothing() {
    let server = with_waiting(0, json!({})).await;
    let mut gone = raw_pull(&server, "30s").await;
    // The server has the request once it answers another that came after it.
    server.read("/livez").await;
    gone.shutdown().await.unwrap();
    drop(gone);
    server.publish(json!({ "type": "a", "id": "1" })).await;
    let pulled = server.pull("s", 1).await;
    assert_eq!(pulled[0]["event"]["id"], "1");
    assert_eq!(pulled[0]["attempt"], 1);
}

#[tokio::test]
async fn what_a_client_never_read_is_released_at_once() {
    // More than the socket's buffers hold, so the answer cannot be written whole.
    let server = start().await;
    let data = "x".repeat(200_000);
    for id in 0..70 {
        server
            .publish(json!({ "type": "a", "id": id.to_string(), "data": data }))
            .await;
    }
    server.subscribe("s", "a").await;
    let mut gone = raw_pull(&server, "0s").await;
    let mut byte = [0_u8; 1];
    gone.read_exact(&mut byte).await.unwrap();
    assert_eq!(counts(&server).await["in_flight"], 70);
    drop(gone);
    let released = async {
        while counts(&server).await["in_flight"] != 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, released).await.unwrap();
    let pulled = server.pull("s", 100).await;
    assert_eq!(pulled.len(), 70);
    assert!(
        pulled.iter().all(|d| d["attempt"] == 1),
        "no attempt was counted"
    );
}

/// Sends a pull by hand and does not read the answer.
async fn raw_pull(server: &Running, wait: &str) -> TcpStream {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = json!({ "max": 1000, "wait": wait }).to_string();
    let request = format!(
        "POST {PULL} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_paused_pull_waits_and_answers_empty() {
    let server = with_waiting(1, json!({})).await;
    answer(server.post("/v1/subscriptions/s/pause"), 200).await;
    let body = server.call(PULL, json!({ "wait": "50ms" })).await;
    assert_eq!(body, json!({ "deliveries": [] }));
    let waiting = tokio::spawn(server.post(PULL).json(&json!({ "wait": "20s" })).send());
    answer(server.post("/v1/subscriptions/s/resume"), 200).await;
    let answered = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    let body: Value = answered.unwrap().unwrap().unwrap().json().await.unwrap();
    assert_eq!(body["deliveries"].as_array().unwrap().len(), 1);
}
