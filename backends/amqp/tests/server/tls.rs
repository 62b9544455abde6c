//! A server that speaks TLS.

use std::path::Path;
use std::process::{Command, Stdio};

use fanfare_amqp::{AmqpBackend, AmqpConfig};
use fanfare_conformance::broker::Broker;
use fanfare_core::backend::Backend;
use fanfare_core::error::{Error, ErrorKind};

use super::own::{config, event, join, publish, server, set, take};

fn openssl(dir: &Path, line: &str) {
    let mut openssl = Command::new("openssl");
    openssl.args(line.split(' ')).current_dir(dir);
    let made = openssl.stderr(Stdio::null()).status().unwrap();
    assert!(made.success(), "openssl {line}");
}

/// Gives the server a certificate for `localhost`, made by `ca.crt`, and answers the port where it speaks
/// TLS.
async fn speaks_tls(broker: &Broker) -> u16 {
    let dir = broker.dir();
    for ca in ["ca", "stranger"] {
        let made = format!("-subj /CN=test-{ca} -keyout {ca}.key -out {ca}.crt");
        let line = format!("req -x509 -newkey rsa:2048 -nodes -days 2 {made}");
        openssl(dir, &line);
    }
    openssl(
        dir,
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
    );
    std::fs::write(dir.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
    openssl(
        dir,
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt",
    );
    let port = broker.second_port();
    let settings = |dir: &Path| {
        let dir = dir.display();
        format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\n\
             ssl_options.cacertfile = {dir}/ca.crt\n\
             ssl_options.certfile = {dir}/server.crt\n\
             ssl_options.keyfile = {dir}/server.key\n\
             ssl_options.verify = verify_none\n"
        )
    };
    set(broker, settings).await;
    port
}

async fn refused(config: AmqpConfig) -> Error {
    AmqpBackend::open(config).await.map(drop).unwrap_err()
}

#[tokio::test]
async fn a_server_that_speaks_tls_is_believed_only_with_its_certificate() {
    let broker = server().await;
    let port = speaks_tls(&broker).await;
    let at = |host: &str, ca: Option<&str>| AmqpConfig {
        url: format!("amqps://guest:guest@{host}:{port}/%2f"),
        tls_ca: ca.map(|file| broker.dir().join(file)),
        ..config(&broker, "orders")
    };
    let backend = AmqpBackend::open(at("localhost", Some("ca.crt"))).await;
    let backend = backend.unwrap();
    let consumer = join(&backend).await;
    publish(&backend, event()).await.unwrap();
    take(&*consumer, 1).await;
    backend.close().await.unwrap();

    for (host, ca) in [
        ("localhost", Some("stranger.crt")),
        ("127.0.0.1", Some("ca.crt")),
        ("localhost", None),
    ] {
        let error = refused(at(host, ca)).await;
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{host}: {error:?}");
        assert!(error.to_string().contains("certificate"), "{error}");
    }
    // Who speaks in the clear to it is not understood.
    let clear = AmqpConfig::new(format!("amqp://localhost:{port}/%2f"), "orders");
    assert_eq!(refused(clear).await.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to_in_the_clear() {
    let broker = server().await;
    let port = broker.address().port();
    let encrypted = format!("amqps://guest:guest@localhost:{port}/%2f");
    let error = refused(AmqpConfig::new(encrypted, "orders")).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.crt");
    std::fs::write(&empty, "").unwrap();
    let nowhere = dir.path().join("nowhere.crt");
    for (scheme, file) in [
        ("amqps", nowhere),
        ("amqps", empty.clone()),
        ("amqp", empty),
    ] {
        let url = format!("{scheme}://127.0.0.1:1/%2f");
        let config = AmqpConfig {
            tls_ca: Some(file.clone()),
            ..AmqpConfig::new(url, "orders")
        };
        let error = refused(config).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{file:?}: {error:?}");
    }
}
