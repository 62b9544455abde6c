//! A server that speaks TLS, and one behind a socket file.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use fanfare_conformance::broker::Broker;
use fanfare_core::error::ErrorKind;
use fanfare_redis::{RedisBackend, RedisConfig};

use super::stage::{command, config, drain, events, publish_surely, refused, server, subscribe};

const LEASE: Duration = Duration::from_secs(30);

fn openssl(dir: &Path, line: &str) {
    let mut openssl = Command::new("openssl");
    openssl.args(line.split(' ')).current_dir(dir);
    let made = openssl.stderr(Stdio::null()).status().unwrap();
    assert!(made.success(), "openssl {line}");
}

/// Gives the server a certificate for `localhost` and answers the port where it speaks TLS.
pub(super) async fn speaks_tls(broker: &Broker) -> u16 {
    let dir = broker.dir();
    openssl(
        dir,
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.crt",
    );
    openssl(
        dir,
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
    );
    std::fs::write(
        dir.join("names"),
        "subjectAltName=DNS:localhost,IP:127.0.0.1\n",
    )
    .unwrap();
    openssl(
        dir,
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt",
    );
    let port = broker.second_port();
    let file = |name: &str| dir.join(name).display().to_string();
    let (ca, certificate, key) = (file("ca.crt"), file("server.crt"), file("server.key"));
    let number = port.to_string();
    let set = [
        "CONFIG",
        "SET",
        "tls-ca-cert-file",
        &ca,
        "tls-cert-file",
        &certificate,
        "tls-key-file",
        &key,
        "tls-auth-clients",
        "no",
        "tls-port",
        &number,
    ];
    command(broker, &set).await;
    port
}

#[tokio::test]
async fn a_server_that_speaks_tls_is_believed_only_with_its_certificate() {
    let broker = server().await;
    let port = speaks_tls(&broker).await;
    let trusting = RedisConfig {
        url: format!("rediss://localhost:{port}/"),
        tls_ca: Some(broker.dir().join("ca.crt")),
        ..config(broker.address())
    };
    let backend = RedisBackend::open(trusting.clone()).await.unwrap();
    let consumer = subscribe(&backend, LEASE).await;
    let events = events(3);
    for event in &events {
        publish_surely(&backend, event).await;
    }
    drain(&consumer, &events).await;

    let error = refused(RedisConfig {
        tls_ca: None,
        ..trusting.clone()
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let nowhere = Some(broker.dir().join("nowhere.crt"));
    let error = refused(RedisConfig {
        tls_ca: nowhere,
        ..trusting
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
}

#[tokio::test]
async fn a_socket_file_a_user_and_a_database_are_reached_by_their_url() {
    let broker = server().await;
    let file = broker.dir().join("redis.sock").display().to_string();
    // The socket is made at the start only: a second server on the same directory would be another.
    let mut second = Command::new("redis-server");
    second
        .args(["--port", "0", "--save", "", "--unixsocket", &file])
        .stdout(Stdio::null());
    let mut second = second.spawn().unwrap();
    let config = RedisConfig {
        url: format!("redis+unix://{file}?db=3"),
        ..config(broker.address())
    };
    let opened = loop {
        match RedisBackend::open(config.clone()).await {
            Err(error) if error.kind() == ErrorKind::Unavailable => tokio::task::yield_now().await,
            opened => break opened,
        }
    };
    let backend = opened.unwrap();
    let consumer = subscribe(&backend, LEASE).await;
    let events = events(2);
    for event in &events {
        publish_surely(&backend, event).await;
    }
    drain(&consumer, &events).await;
    second.kill().unwrap();
    second.wait().unwrap();
}
