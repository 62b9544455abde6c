//! Every bad input has an error of its own kind.

use fanfare_conformance::broker::Broker;
use fanfare_core::backend::Backend;
use fanfare_core::error::{Error, ErrorKind};
use fanfare_postgres::{PostgresBackend, PostgresConfig};

use super::stage::*;

async fn refused(url: String, stream: &str) -> Error {
    let config = PostgresConfig {
        url,
        stream: stream.into(),
        ..config(([127, 0, 0, 1], 1).into())
    };
    within(PostgresBackend::open(config)).await.unwrap_err()
}

fn url(broker: &Broker, user: &str, database: &str) -> String {
    format!("postgres://{user}@{}/{database}", broker.address())
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let broker = server().await;
    sql(
        &broker,
        "CREATE ROLE checked LOGIN PASSWORD 'right'; CREATE ROLE nobody LOGIN",
    )
    .await;
    let refusals = [
        (
            url(&broker, "checked:wrong", "postgres"),
            ErrorKind::Unauthorized,
        ),
        (url(&broker, "checked", "postgres"), ErrorKind::Unauthorized),
        (
            url(&broker, "stranger", "postgres"),
            ErrorKind::Unauthorized,
        ),
        (url(&broker, "postgres", "missing"), ErrorKind::NotFound),
        (url(&broker, "nobody", "postgres"), ErrorKind::Forbidden),
        (
            "postgres://127.0.0.1:1/postgres".into(),
            ErrorKind::Unavailable,
        ),
        (
            "postgres://127.0.0.1:port/postgres".into(),
            ErrorKind::Invalid,
        ),
    ];
    for (url, kind) in refusals {
        let error = refused(url.clone(), "orders").await;
        assert_eq!(error.kind(), kind, "{url}: {error}");
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
    let long = "x".repeat(60);
    for stream in ["", "a b", &long] {
        let error = refused(broker.url(), stream).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

#[tokio::test]
async fn tables_of_another_are_forbidden() {
    let broker = server().await;
    open(broker.address()).await.close().await.unwrap();
    sql(&broker, "CREATE ROLE shop LOGIN").await;
    let error = refused(url(&broker, "shop", "postgres"), "orders").await;
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
}

#[tokio::test]
async fn a_role_without_rights_to_create_uses_what_is_there() {
    let broker = server().await;
    open(broker.address()).await.close().await.unwrap();
    let grants = "CREATE ROLE shop LOGIN; GRANT USAGE ON SCHEMA fanfare_orders TO shop; \
                  GRANT ALL ON ALL TABLES IN SCHEMA fanfare_orders TO shop; \
                  GRANT ALL ON ALL SEQUENCES IN SCHEMA fanfare_orders TO shop; \
                  GRANT ALL ON ALL FUNCTIONS IN SCHEMA fanfare_orders TO shop";
    sql(&broker, grants).await;
    let config = PostgresConfig {
        url: url(&broker, "shop", "postgres"),
        ..config(broker.address())
    };
    let backend = PostgresBackend::open(config).await.unwrap();
    let member = member(&backend).await;
    publish(&backend, &event("first")).await.unwrap();
    assert_eq!(take(&member, 1).await, ["first"]);
    backend.close().await.unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let broker = server().await;
    open(broker.address()).await.close().await.unwrap();
    sql(
        &broker,
        "INSERT INTO fanfare_orders.migration VALUES (99, 'later')",
    )
    .await;
    let error = refused(broker.url(), "orders").await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[tokio::test]
async fn what_is_missing_is_told_and_not_made() {
    let broker = server().await;
    let missing = || async {
        let config = config(broker.address());
        PostgresBackend::missing(config).await.unwrap()
    };
    assert_eq!(missing().await, Some("nothing there yet"));
    let client = sql(&broker, "SELECT 1").await;
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'fanfare%'";
    let schemas = client.query_one(schemas, &[]).await.unwrap();
    assert_eq!(schemas.get::<_, i64>(0), 0);
    open(broker.address()).await.close().await.unwrap();
    assert_eq!(missing().await, None);
    // As a step of the tables leaves it.
    let step = "DELETE FROM fanfare_orders.migration WHERE number = 0";
    client.batch_execute(step).await.unwrap();
    assert_eq!(missing().await, Some("of an older version"));
}

#[tokio::test]
async fn a_server_that_is_read_only_says_so() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    sql(
        &broker,
        "ALTER SYSTEM SET default_transaction_read_only = on",
    )
    .await;
    broker.restart().await.unwrap();
    let error = publish(&backend, &event("first")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let fresh = refused(broker.url(), "other").await;
    assert_eq!(fresh.kind(), ErrorKind::Unavailable, "{fresh}");
    assert!(fresh.to_string().contains("read-only"), "{fresh}");
}
