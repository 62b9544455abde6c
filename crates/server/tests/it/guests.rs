//! Who is answered: hosts, origins, and what every answer carries.

use fanfare::bus::Bus;
use fanfare_server::{Limits, Server, ServerConfig};
use serde_json::json;

use crate::harness::{answer, refused, start, start_with};

#[tokio::test]
async fn other_hosts_are_refused() {
    let server = start().await;
    for host in ["evil.example", "localhost.evil.example:80", "10.0.0.1"] {
        for path in ["/", "/v1/events", "/livez", "/metrics"] {
            refused(server.get(path).header("host", host), 403, "host_refused").await;
        }
    }
    for host in ["localhost", "localhost:1", "127.0.0.1", "[::1]:8787"] {
        answer(server.get("/livez").header("host", host), 200).await;
    }
}

#[tokio::test]
async fn a_listed_host_is_answered() {
    let server = start_with(ServerConfig {
        allowed_hosts: vec!["events.example".into()],
        ..ServerConfig::default()
    })
    .await;
    answer(
        server.get("/livez").header("host", "events.example:80"),
        200,
    )
    .await;
}

#[tokio::test]
async fn foreign_pages_change_nothing() {
    let server = start().await;
    let event = json!({ "type": "a" });
    let post = || server.post("/v1/events").json(&event);
    refused(
        post().header("origin", "https://evil.example"),
        403,
        "origin_refused",
    )
    .await;
    refused(post().header("origin", "null"), 403, "origin_refused").await;
    refused(
        post().header("sec-fetch-site", "cross-site"),
        403,
        "origin_refused",
    )
    .await;
    let delete = server
        .delete("/v1/subscriptions/s")
        .header("origin", "http://localhost:1");
    refused(delete, 403, "origin_refused").await;
    answer(post().header("origin", &server.url), 201).await;
    answer(
        server
            .get("/v1/events")
            .header("origin", "https://evil.example"),
        200,
    )
    .await;
}

#[tokio::test]
async fn every_answer_is_guarded_and_none_allows_other_origins() {
    let server = start().await;
    for path in ["/", "/v1/events", "/none", "/metrics", "/v1/events?x=1"] {
        let get = server.get(path).header("origin", "https://evil.example");
        let response = get.send().await.unwrap();
        let headers = response.headers();
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(!policy.contains("unsafe-inline"), "{policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        assert!(!headers.contains_key("access-control-allow-origin"));
    }
}

#[test]
fn values_that_cannot_work_are_all_named() {
    let config = ServerConfig {
        allowed_hosts: vec!["a.example".into(), "b.example:80".into(), String::new()],
        source: String::new(),
        limits: Limits {
            tail_queue: 0,
            connections: usize::MAX,
            ..Limits::default()
        },
        ..ServerConfig::default()
    };
    let error = config.check().unwrap_err();
    let pointers: Vec<_> = error.violations().iter().map(|v| &*v.pointer).collect();
    let expected = [
        "/limits/tail_queue",
        "/limits/connections",
        "/allowed_hosts/1",
        "/allowed_hosts/2",
        "/source",
    ];
    assert_eq!(pointers, expected);
    ServerConfig::default().check().unwrap();
}

async fn bind(listen: &str, insecure: bool) -> fanfare::core::Result<Server> {
    let backend = fanfare::backend("memory:").await.unwrap();
    let config = ServerConfig {
        listen: listen.into(),
        insecure,
        ..ServerConfig::default()
    };
    Server::bind(config, Bus::builder(backend).build().unwrap()).await
}

#[tokio::test]
async fn an_open_address_is_refused_unless_insecure() {
    let error = bind("0.0.0.0:0", false).await.unwrap_err();
    assert!(error.message().contains("--insecure"), "{error}");
    bind("0.0.0.0:0", true).await.unwrap();
    bind("localhost:0", false).await.unwrap();
    assert!(bind("nonsense", false).await.is_err());
}

#[tokio::test]
async fn a_taken_port_is_a_clear_error() {
    let first = bind("127.0.0.1:0", false).await.unwrap();
    let address = first.local_addr().to_string();
    let error = bind(&address, false).await.unwrap_err();
    assert_eq!(error.kind(), fanfare::core::ErrorKind::Locked);
    assert!(
        error.message().contains(&address) && error.message().contains("in use"),
        "{error}"
    );
}
