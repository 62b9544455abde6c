//! Health, figures, the status page, and shutting down.

use std::time::Duration;

use fanfare_server::{Limits, ServerConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Running, answer, problem, refused, start, start_with};

#[tokio::test]
async fn a_running_server_is_live_and_ready() {
    let server = start().await;
    assert_eq!(server.read("/livez").await, json!({ "ok": true }));
    let ready = server.read("/readyz").await;
    assert_eq!(ready["ok"], true);
    for component in ["server", "bus", "backend"] {
        let one = server.read(&format!("/readyz/{component}")).await;
        assert_eq!(one["name"], component);
        assert_eq!(one["ok"], true);
    }
    refused(server.get("/readyz/teapot"), 404, "not_found").await;
}

#[tokio::test]
async fn health_of_redis_is_404_where_none_is_configured() {
    let server = start().await;
    refused(server.get("/health/redis"), 404, "not_found").await;
}

#[tokio::test]
async fn liveness_does_not_depend_on_the_backend() {
    let server = start().await;
    server.bus.backend().close().await.unwrap();
    answer(server.get("/livez"), 200).await;
    let ready = answer(server.get("/readyz"), 503).await;
    assert_eq!(ready["ok"], false);
    answer(server.get("/readyz/backend"), 503).await;
    answer(server.get("/readyz/server"), 200).await;
    let post = server.post("/v1/events").json(&json!({ "type": "a" }));
    refused(post, 503, "draining").await;
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems() {
    let server = start().await;
    for path in [
        "/v1",
        "/v1/event",
        "/v1/events/",
        "/v1/events/a/b",
        "/assets/x",
    ] {
        refused(server.get(path), 404, "no_route").await;
    }
    let put = server.put("/v1/events").send().await.unwrap();
    let allow = put.headers()["allow"].to_str().unwrap().to_owned();
    assert!(allow.contains("GET") && allow.contains("POST"), "{allow}");
    problem(put, 405, "method_not_allowed").await;
}

#[tokio::test]
async fn broken_escapes_in_a_path_are_malformed() {
    let server = start().await;
    for path in ["/v1/events/%ff", "/v1/subscriptions/%ff", "/readyz/%c0%a0"] {
        refused(server.get(path), 400, "malformed").await;
    }
}

#[tokio::test]
async fn stats_and_audit_tell_where_everything_is() {
    let server = start().await;
    server.subscribe("s", "a").await;
    for _ in 0..3 {
        server.publish(json!({ "type": "a" })).await;
    }
    let pulled = server.pull("s", 2).await;
    server.settle("s", "ack", &pulled[..1]).await;
    let stats = server.read("/v1/stats").await;
    assert_eq!(stats["stream"]["events"], 3);
    assert_eq!(stats["bus"]["published"], 3);
    assert_eq!(stats["capabilities"]["backend"], "memory");
    assert_eq!(stats["subscriptions"][0]["counts"]["in_flight"], 1);
    let audit = server.read("/v1/audit").await;
    let expected = json!({ "ok": true, "subscriptions": [{
        "name": "s", "published": 3, "acknowledged": 1, "dropped": 0, "dead": 0, "in_flight": 1,
        "waiting": 1, "breaches": []
    }]});
    assert_eq!(audit, expected);
    assert_eq!(server.read("/v1/audit?subscription=s").await, expected);
    refused(server.get("/v1/audit?subscription=none"), 404, "not_found").await;
}

#[tokio::test]
async fn metrics_have_our_names_and_system_c_s() {
    let server = start().await;
    server.subscribe("s", "a").await;
    server.publish(json!({ "type": "a", "source": "/s" })).await;
    let response = server.get("/metrics").send().await.unwrap();
    let media_type = response.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        media_type.starts_with("text/plain; version=0.0.4"),
        "{media_type}"
    );
    let text = response.text().await.unwrap();
    for line in [
        "fanfare_events_published_total{source=\"/s\",type=\"a\"} 1",
        "eventbroker_events_published_total{source=\"/s\",type=\"a\"} 1",
        "fanfare_log_events 1",
        "fanfare_backend_up 1",
        "fanfare_subscription_waiting{subscription=\"s\"} 1",
        "eventbroker_queue_size 0",
        "eventbroker_workers_active 0",
        "fanfare_tails 0",
    ] {
        assert!(text.lines().any(|l| l == line), "no line {line} in\n{text}");
    }
    for family in [
        "eventbroker_events_processed_total",
        "eventbroker_event_processing_duration_seconds",
    ] {
        assert!(text.contains(&format!("# TYPE {family} ")), "{family}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = name.split('{').next().unwrap();
        assert!(
            name.starts_with("fanfare_") || name.starts_with("eventbroker_"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn what_clients_elsewhere_do_is_counted_like_handlers_here() {
    let server = start().await;
    server.subscribe("s", "a").await;
    for _ in 0..3 {
        server.publish(json!({ "type": "a" })).await;
    }
    let pulled = server.pull("s", 3).await;
    server.settle("s", "ack", &pulled[..2]).await;
    server.settle("s", "ack", &pulled[..1]).await;
    server.settle("s", "dead_letter", &pulled[2..]).await;
    let text = server.get("/metrics").send().await.unwrap();
    let text = text.text().await.unwrap();
    for line in [
        "fanfare_deliveries_total{subscription=\"s\"} 3",
        "fanfare_settlements_total{subscription=\"s\",outcome=\"ack\"} 2",
        "fanfare_settlements_total{subscription=\"s\",outcome=\"dead_letter\"} 1",
        "fanfare_settlements_refused_total{subscription=\"s\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "no line {line} in\n{text}");
    }
    answer(server.delete("/v1/subscriptions/s?force=true"), 204).await;
    let text = server.get("/metrics").send().await.unwrap();
    assert!(!text.text().await.unwrap().contains("subscription=\"s\""));
}

#[tokio::test]
async fn the_status_page_is_plain_html_without_inline_code() {
    let server = start().await;
    server.subscribe("s", "a.**").await;
    server.publish(json!({ "type": "a" })).await;
    let page = server.get("/").send().await.unwrap();
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let page = page.text().await.unwrap();
    assert!(
        page.contains("<code>a.**</code>") && page.contains("all is well"),
        "{page}"
    );
    assert!(!page.contains("<script") && !page.contains("<style") && !page.contains("style="));
    let style = server.get("/assets/style.css").send().await.unwrap();
    assert_eq!(style.headers()["content-type"], "text/css; charset=utf-8");
}

/// Begins to publish and stops in the middle of the body; the server is known to wait for the rest.
async fn half_a_publish(server: &Running, body: &str) -> TcpStream {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         expect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0_u8; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert!(go_on.starts_with(b"HTTP/1.1 100 Continue"));
    stream
}

#[tokio::test]
async fn a_draining_server_finishes_what_it_began_and_takes_nothing_new() {
    let mut server = start().await;
    server.subscribe("s", "a").await;
    server.publish(json!({ "type": "a" })).await;
    let pulled = server.pull("s", 1).await;
    let body = json!({ "type": "a", "id": "begun" }).to_string();
    let mut begun = half_a_publish(&server, &body).await;
    let pull = server
        .post("/v1/subscriptions/s/pull")
        .json(&json!({ "wait": "60s" }));
    let pull = tokio::spawn(pull.send());
    while server.read("/v1/stats").await["server"]["pulls"] != 1 {
        tokio::task::yield_now().await;
    }
    server.stop();
    let pulled_nothing: Value = pull.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(
        pulled_nothing,
        json!({ "deliveries": [] }),
        "a waiting pull is answered"
    );
    let ready = answer(server.get("/readyz"), 503).await;
    assert_eq!(ready["components"][0]["detail"], "draining");
    answer(server.get("/livez"), 200).await;
    refused(
        server.post("/v1/events").json(&json!({ "type": "a" })),
        503,
        "draining",
    )
    .await;
    refused(server.post("/v1/subscriptions/s/pull"), 503, "draining").await;
    refused(server.get("/v1/tail"), 503, "draining").await;
    let settled = server.settle("s", "ack", &pulled).await;
    assert_eq!(settled[0]["ok"], true, "what was handed out can be settled");
    begun.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    begun.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    server.stopped().await;
}

#[tokio::test]
async fn what_does_not_finish_within_the_grace_period_is_cut_off() {
    let mut server = start_with(ServerConfig {
        limits: Limits {
            grace: Duration::from_millis(50),
            ..Limits::default()
        },
        ..ServerConfig::default()
    })
    .await;
    let mut begun = half_a_publish(&server, "{}").await;
    server.stop();
    server.stopped().await;
    let mut rest = Vec::new();
    let _ = begun.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}

#[tokio::test]
async fn an_idle_server_stops_at_once() {
    let server = start().await;
    server.read("/livez").await;
    server.shut_down().await;
}
