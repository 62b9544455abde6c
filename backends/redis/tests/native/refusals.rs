//! What the server refuses, and how that is said.

use std::time::Duration;

use fanfare_core::error::ErrorKind;
use fanfare_redis::{RedisBackend, RedisConfig};

use super::stage::{
    command, config, drain, events, open, publish, publish_surely, refused, server, subscribe,
};

#[tokio::test]
async fn what_the_server_refuses_says_why() {
    let broker = server().await;
    let address = broker.address();
    let url = |text: String| RedisConfig {
        url: text,
        ..config(address)
    };
    let error = refused(url(format!("redis://{address}/99"))).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let error = refused(url("http://nowhere".into())).await;
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let error = refused(url("redis://127.0.0.1:1/".into())).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");

    let limited = [
        "ACL", "SETUSER", "ada", "on", ">secret", "~*", "+@all", "-evalsha", "-eval",
    ];
    command(&broker, &limited).await;
    let error = refused(url(format!("redis://ada:wrong@{address}/"))).await;
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    let backend = RedisBackend::open(url(format!("redis://ada:secret@{address}/")));
    let error = publish(&backend.await.unwrap(), &events(1)[0])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");

    let backend = open(address).await;
    let consumer = subscribe(&backend, Duration::from_secs(30)).await;
    let kept = events(10);
    for event in &kept {
        publish_surely(&backend, event).await;
    }
    command(&broker, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = publish(&backend, &events(1)[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    // What is there is still delivered and settled.
    drain(&consumer, &kept).await;
    command(&broker, &["CONFIG", "SET", "maxmemory", "0"]).await;
    command(&broker, &["REPLICAOF", "127.0.0.1", "1"]).await;
    let error = publish(&backend, &events(1)[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    command(&broker, &["REPLICAOF", "NO", "ONE"]).await;
    publish_surely(&backend, &events(1)[0]).await;

    command(&broker, &["CONFIG", "SET", "requirepass", "secret"]).await;
    let error = refused(config(address)).await;
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
}

#[tokio::test]
async fn a_key_that_holds_something_else_is_a_conflict() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    command(&broker, &["SET", "orders", "a text"]).await;
    let error = publish(&backend, &events(1)[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let error = refused(config(broker.address())).await;
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}

#[tokio::test]
async fn a_server_that_is_too_old_is_named() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4_096];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            let asked = String::from_utf8_lossy(&buffer[..read]).into_owned();
            let mut answer = "+OK\r\n".repeat(asked.matches("SETINFO").count());
            let version = "$21\r\nredis_version:5.0.14\n\r\n";
            answer.push_str(&version.repeat(asked.matches("server").count()));
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let error = refused(config(address)).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("5.0.14"), "{error}");
}
