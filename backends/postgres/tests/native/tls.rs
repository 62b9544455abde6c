//! A server that speaks TLS, and one that takes nothing else.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use fanfare_conformance::broker::Broker;
use fanfare_core::backend::Backend;
use fanfare_core::error::{Error, ErrorKind};
use fanfare_postgres::{PostgresBackend, PostgresConfig};
use tokio_postgres::NoTls;

use super::stage::{event, member, publish_surely, server, sql, take};

fn openssl(dir: &Path, line: &str) {
    let mut openssl = Command::new("openssl");
    openssl.args(line.split(' ')).current_dir(dir);
    let made = openssl.stderr(Stdio::null()).status().unwrap();
    assert!(made.success(), "openssl {line}");
}

/// Gives the server a certificate for `localhost`, made by `ca.crt`, and takes unencrypted connections
/// from it.
async fn speaks_only_tls(broker: &Broker) {
    let dir = broker.dir();
    for ca in ["ca", "stranger"] {
        let made = format!("-subj /CN=test-{ca} -keyout {ca}.key -out {ca}.crt");
        openssl(
            dir,
            &format!("req -x509 -newkey rsa:2048 -nodes -days 2 {made}"),
        );
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
    let data = dir.join("data");
    let owner = std::fs::metadata(&data).unwrap();
    for (setting, file) in [
        ("ssl_cert_file", "server.crt"),
        ("ssl_key_file", "server.key"),
    ] {
        let file = dir.join(file);
        chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
        let set = format!("ALTER SYSTEM SET {setting} = '{}'", file.display());
        sql(broker, &set).await;
    }
    let reloading = sql(broker, "ALTER SYSTEM SET ssl = on").await;
    let access = "hostssl all all 127.0.0.1/32 trust\n";
    std::fs::write(data.join("pg_hba.conf"), access).unwrap();
    let reload = reloading.batch_execute("SELECT pg_reload_conf()");
    reload.await.unwrap();
    while tokio_postgres::connect(&broker.url(), NoTls).await.is_ok() {}
}

/// At `localhost`.
fn config(broker: &Broker, mode: &str, ca: Option<&str>) -> PostgresConfig {
    let port = broker.address().port();
    let url = format!("postgres://postgres@localhost:{port}/postgres?sslmode={mode}");
    PostgresConfig {
        tls_ca: ca.map(|file| broker.dir().join(file)),
        ..PostgresConfig::new(url, "orders")
    }
}

async fn refused(config: PostgresConfig) -> Error {
    PostgresBackend::open(config).await.unwrap_err()
}

#[tokio::test]
async fn a_server_that_speaks_tls_is_believed_only_with_its_certificate() {
    let broker = server().await;
    speaks_only_tls(&broker).await;
    let trusting = config(&broker, "require", Some("ca.crt"));
    let backend = PostgresBackend::open(trusting.clone()).await.unwrap();
    let member = member(&backend).await;
    publish_surely(&backend, &event("first")).await;
    assert_eq!(take(&member, 1).await, ["first"]);
    backend.close().await.unwrap();

    let strange = refused(config(&broker, "require", Some("stranger.crt"))).await;
    let elsewhere = trusting.url.replace("localhost", "127.0.0.1");
    let renamed = refused(PostgresConfig {
        url: elsewhere,
        ..trusting
    });
    let unknown = refused(config(&broker, "require", None));
    for error in [strange, renamed.await, unknown.await] {
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error:?}");
        assert!(error.to_string().contains("certificate"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_takes_nothing_unencrypted_says_so() {
    let broker = server().await;
    speaks_only_tls(&broker).await;
    let error = refused(config(&broker, "disable", None)).await;
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error:?}");
    assert!(error.to_string().contains("unencrypted"), "{error}");
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to_in_the_clear() {
    let broker = server().await;
    let error = refused(config(&broker, "require", None)).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_named() {
    let broker = server().await;
    std::fs::write(broker.dir().join("empty.crt"), "").unwrap();
    for (mode, file) in [
        ("require", "nowhere.crt"),
        ("require", "empty.crt"),
        ("disable", "empty.crt"),
    ] {
        let error = refused(config(&broker, mode, Some(file))).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{mode} {file}: {error:?}");
    }
}
