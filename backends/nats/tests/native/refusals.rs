//! What a server refuses, and how that is said.

use fanfare_core::advice::Weight;
use fanfare_core::backend::Backend as _;
use fanfare_core::capability::Known;
use fanfare_core::error::{Error, ErrorKind};
use fanfare_core::event::Event;
use fanfare_nats::{NatsBackend, NatsConfig};

use super::own::{Own, pretender};

async fn refused(url: String) -> Error {
    let opened = NatsBackend::open(NatsConfig::new(url, "orders")).await;
    opened.unwrap_err()
}

fn event(bytes: usize) -> Event {
    let data = fanfare_core::data::Data::text("x".repeat(bytes));
    let event = Event::builder("a.b".parse().unwrap());
    event.data(data).build().unwrap()
}

async fn publish(backend: &NatsBackend, event: Event) -> Result<(), Error> {
    let answers = backend.publish(&[event]).await?;
    answers.into_iter().next().unwrap().map(drop)
}

#[tokio::test]
async fn wrong_credentials_are_said_and_right_ones_in_the_url_are_used() {
    let server = Own::with(r#"authorization { user: ada, password: "p@ss,w" }"#).await;
    for who in ["", "ada:wrong@", "bob:p%40ss%2Cw@", "token@"] {
        let error = refused(server.url(who)).await;
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{who}: {error}");
    }
    let right = NatsConfig::new(server.url("ada:p%40ss%2Cw@"), "orders");
    let backend = NatsBackend::open(right).await.unwrap();
    publish(&backend, event(1)).await.unwrap();
    backend.close().await.unwrap();

    let server = Own::with("authorization { token: s3cret }").await;
    let error = refused(server.url("wrong@")).await;
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    let right = NatsConfig::new(server.url("s3cret@"), "orders");
    NatsBackend::open(right)
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_server_without_jetstream_is_named_at_once() {
    let server = Own::start(|_| String::new()).await;
    let error = refused(server.url("")).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("--jetstream"), "{error}");

    let account = "accounts { plain { users: [{ user: ada, password: x }] } }";
    let server = Own::with(account).await;
    let error = refused(server.url("ada:x@")).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("account"), "{error}");
}

#[tokio::test]
async fn what_the_user_may_not_do_is_said_at_once() {
    let users = r#"authorization { users: [
        { user: mute, password: x, permissions: { publish: { deny: "$JS.API.STREAM.CREATE.>" } } }
        { user: deaf, password: x, permissions: { subscribe: { deny: "_INBOX.>" } } }
        { user: reader, password: x, permissions: { publish: { deny: "fanfare.e.>" } } }
    ] }"#;
    let server = Own::with(users).await;
    for who in ["mute:x@", "deaf:x@"] {
        let error = refused(server.url(who)).await;
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{who} {error}");
    }
    let reader = NatsConfig::new(server.url("reader:x@"), "orders");
    let backend = NatsBackend::open(reader).await.unwrap();
    let error = publish(&backend, event(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    backend.close().await.unwrap();
}

#[tokio::test]
async fn a_server_without_room_says_full_and_what_is_full() {
    let small = |dir: &std::path::Path| {
        format!(
            "jetstream {{ store_dir: \"{}\", max_file_store: 1MB }}",
            dir.display()
        )
    };
    let server = Own::start(small).await;
    let greedy = NatsConfig {
        max_bytes: 1 << 30,
        ..NatsConfig::new(server.url(""), "greedy")
    };
    let error = NatsBackend::open(greedy).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    let backend = NatsBackend::open(NatsConfig::new(server.url(""), "orders"));
    let backend = backend.await.unwrap();
    let mut published = 0;
    let error = loop {
        match publish(&backend, event(50_000)).await {
            Ok(()) => published += 1,
            Err(error) => break error,
        }
        assert!(published < 100, "more than there is room for");
    };
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    backend.close().await.unwrap();
}

#[tokio::test]
async fn more_replicas_than_servers_are_refused() {
    let server = Own::with("").await;
    let config = NatsConfig {
        replicas: 3,
        ..NatsConfig::new(server.url(""), "orders")
    };
    let error = NatsBackend::open(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[tokio::test]
async fn a_stream_in_memory_is_no_safe_place_and_doctor_is_told() {
    let server = Own::with("").await;
    let client = async_nats::connect(server.url("")).await.unwrap();
    let made = r#"{"name":"fanfare_orders","subjects":["fanfare.e.orders.>"],"retention":"limits",
        "discard":"new","storage":"memory"}"#;
    let create = "$JS.API.STREAM.CREATE.fanfare_orders";
    client.request(create, made.into()).await.unwrap();
    let config = NatsConfig::new(server.url(""), "orders");
    let backend = NatsBackend::open(config).await.unwrap();
    assert_eq!(backend.capabilities().power_safe, Known::No);
    let advice = backend.admin().advice().await.unwrap();
    let mut bad = advice.iter().filter(|one| one.weight == Weight::Bad);
    assert_eq!(bad.next().map(|one| one.check), Some("storage"));
    backend.close().await.unwrap();
}

#[tokio::test]
async fn the_settings_that_forget_events_are_named() {
    let server = Own::with("").await;
    let client = async_nats::connect(server.url("")).await.unwrap();
    let made = r#"{"name":"fanfare_orders","subjects":["fanfare.e.orders.>"],"retention":"limits",
        "discard":"old","max_bytes":1000000,"max_age":60000000000,"storage":"file"}"#;
    let create = "$JS.API.STREAM.CREATE.fanfare_orders";
    client.request(create, made.into()).await.unwrap();
    let error = refused(server.url("")).await;
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let said = error.to_string();
    assert!(
        said.contains("discard") && said.contains("max_age"),
        "{said}"
    );
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_or_is_too_old_is_named() {
    let error = refused("nats://127.0.0.1:1".into()).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let error = refused("http://127.0.0.1:1".into()).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let old = pretender("2.8.4").await;
    let error = refused(format!("nats://{old}")).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("2.8.4"), "{error}");
    // Of several servers one is enough.
    let server = Own::with("").await;
    let several = format!("nats://127.0.0.1:1,{}", server.address);
    let backend = NatsBackend::open(NatsConfig::new(several, "orders")).await;
    backend.unwrap().close().await.unwrap();
}
