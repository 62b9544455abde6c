//! What a server refuses, and how that is said.

use std::path::Path;
use std::time::Duration;

use fanfare_amqp::{AmqpBackend, AmqpConfig};
use fanfare_conformance::broker::Broker;
use fanfare_core::backend::Backend;
use fanfare_core::clock::Clock;
use fanfare_core::error::{Error, ErrorKind};
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::own::{config, event, join, publish, server, set, spec, stranger, take};

/// The salted hash of the password `x`.
const PASSWORD: &str = "AQIDBFNrNX4evS5CCaCLIiast7og/TJ3VvFFmR7pqwxAvGmT";
/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Users with their rights to configure, write and read, and a policy for queues of a name.
const USERS: [(&str, [&str; 3]); 4] = [
    ("stiff", ["^$", ".*", ".*"]),
    ("mute", [".*", "^$", ".*"]),
    ("deaf", [".*", ".*", "^$"]),
    // As the guide has it.
    (
        "narrow",
        [
            r"^orders(\..*)?$",
            r"^(orders(\..*)?|amq\.default)$",
            r"^orders(\..*)?$",
        ],
    ),
];

/// Writes them down, and answers the setting that has the server read them.
fn definitions(dir: &Path) -> String {
    let user = |(name, _): &(&str, [&str; 3])| {
        let hashing = "rabbit_password_hashing_sha256";
        json!({ "name": name, "password_hash": PASSWORD, "hashing_algorithm": hashing, "tags": [] })
    };
    let right = |(name, [configure, write, read]): &(&str, [&str; 3])| json!({ "user": name, "vhost": "/", "configure": configure, "write": write, "read": read });
    let full = json!({
        "name": "full", "vhost": "/", "pattern": r"^full\.s\.", "apply-to": "queues",
        "definition": { "max-length": 2, "overflow": "reject-publish" }, "priority": 0,
    });
    let all = json!({
        "users": USERS.iter().map(user).collect::<Vec<_>>(),
        "permissions": USERS.iter().map(right).collect::<Vec<_>>(),
        "policies": [full],
    });
    let file = dir.join("definitions.json");
    std::fs::write(&file, all.to_string()).unwrap();
    format!("load_definitions = {}\n", file.display())
}

fn by(who: &str, broker: &Broker) -> AmqpConfig {
    let url = format!("amqp://{who}:x@{}/%2f", broker.address());
    AmqpConfig::new(url, "orders")
}

async fn refused(config: AmqpConfig) -> Error {
    AmqpBackend::open(config).await.map(drop).unwrap_err()
}

#[tokio::test]
async fn what_a_user_may_not_do_is_said_with_what_it_was() {
    let broker = server().await;
    set(&broker, definitions).await;
    for who in ["stiff", "mute", "deaf"] {
        let error = refused(by(who, &broker)).await;
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{who}: {error:?}");
        let said = error.to_string();
        assert!(said.contains(who) && said.contains("'orders"), "{said}");
    }
    // A stream that is there needs no less.
    let backend = AmqpBackend::open(by("narrow", &broker)).await.unwrap();
    for (who, _) in USERS.iter().take(3) {
        let error = refused(by(who, &broker)).await;
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{who}: {error:?}");
    }
    let consumer = join(&backend).await;
    publish(&backend, event()).await.unwrap();
    take(&*consumer, 1).await;
    backend.close().await.unwrap();
}

#[tokio::test]
async fn a_queue_that_takes_no_more_says_full() {
    let broker = server().await;
    set(&broker, definitions).await;
    let backend = AmqpBackend::open(config(&broker, "full")).await.unwrap();
    backend.admin().put(&spec()).await.unwrap();
    let mut published = 0;
    let error = loop {
        match publish(&backend, event()).await {
            Ok(()) => published += 1,
            Err(error) => break error,
        }
        assert!(published < 100, "more than there is room for");
    };
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    backend.close().await.unwrap();
}

#[tokio::test]
async fn a_queue_declared_otherwise_is_a_conflict_that_names_it() {
    let broker = server().await;
    let (_connection, channel) = stranger(&broker).await;
    for queue in ["classic.book", "orders.s.all"] {
        let durable = QueueDeclareOptions::durable();
        let made = channel.queue_declare(queue.into(), durable, FieldTable::default());
        made.await.unwrap();
    }
    let error = refused(config(&broker, "classic")).await;
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("classic.book"), "{error}");

    let backend = AmqpBackend::open(config(&broker, "orders")).await.unwrap();
    let error = backend.admin().put(&spec()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains("orders.s.all"), "{error}");
    backend.close().await.unwrap();
}

#[tokio::test]
async fn a_server_low_on_memory_is_told_from_one_that_is_not_there() {
    let broker = server().await;
    let patient = AmqpConfig {
        publish_timeout: Duration::from_secs(2),
        response_timeout: Duration::from_secs(2),
        ..config(&broker, "alarm")
    };
    let backend = AmqpBackend::open(patient.clone()).await.unwrap();
    let settings = |_: &Path| "vm_memory_high_watermark.absolute = 1MB\n".to_owned();
    set(&broker, settings).await;

    // It blocks a connection when something is published over it, and hears nothing from then on.
    let until = Clock::system().now() + PATIENCE;
    let blocked = loop {
        assert!(Clock::system().now() < until, "it was not told");
        let published = publish(&backend, event()).await;
        if let Err(error) = published
            && error.to_string().contains("low on memory or disk")
        {
            break error;
        }
    };
    assert!(blocked.to_string().contains("list_alarms"), "{blocked}");
    let health = backend.admin().health().await;
    assert!(!health.ok && health.detail.contains("low on"), "{health:?}");
    backend.close().await.unwrap();

    // Nor can a new stream be made there.
    let error = refused(AmqpConfig {
        stream: "another".into(),
        ..patient
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("low on memory"), "{error}");
}

#[tokio::test]
async fn what_is_no_url_is_said_without_showing_it() {
    for url in ["http://ada:hunter2@host/", "amqp:host", "ada:hunter2@host"] {
        let error = refused(AmqpConfig::new(url, "orders")).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{url}: {error:?}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    let nobody = "amqp://guest:guest@127.0.0.1:1/%2f";
    let error = refused(AmqpConfig::new(nobody, "orders")).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

/// What greets every client so, and says nothing else.
async fn pretender(greeting: Vec<u8>) -> AmqpConfig {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}/%2f", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let _ = client.write_all(&greeting).await;
            open.push(client);
        }
    });
    AmqpConfig::new(url, "orders")
}

#[tokio::test]
async fn a_server_that_is_too_old_or_another_kind_is_named() {
    let text = |key: &str, value: &str| {
        let (key_length, length) = (u8::try_from(key.len()), u32::try_from(value.len()));
        let length = length.unwrap().to_be_bytes();
        let value = value.as_bytes();
        [&[key_length.unwrap()], key.as_bytes(), b"S", &length, value].concat()
    };
    let table = [text("product", "RabbitMQ"), text("version", "3.9.13")].concat();
    let length = |bytes: usize| u32::try_from(bytes).unwrap().to_be_bytes();
    let start = [&[0, 10, 0, 10, 0, 9], &length(table.len())[..], &table].concat();
    let frame = [&[1, 0, 0], &length(start.len())[..], &start, &[0xCE]].concat();
    let error = refused(pretender(frame).await).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.to_string().contains("3.9.13"), "{error}");

    // One of AMQP 1.0.
    let error = refused(pretender(b"AMQP\x00\x01\x00\x00".to_vec()).await).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
}
