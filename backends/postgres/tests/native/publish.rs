//! Publishing from SQL and in the caller's transaction.

use fanfare_core::backend::Backend;
use fanfare_core::data::Data;
use fanfare_core::event::Event;
use fanfare_core::history::EventQuery;
use fanfare_core::id::EventId;
use fanfare_postgres::PostgresBackend;

use super::stage::*;

#[tokio::test]
async fn sql_publishes_what_the_record_reads() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let client = sql(&broker, "SET search_path = fanfare_orders").await;
    let calls = [
        "publish('a.b')",
        "publish('a.b', '{\"n\": 1}', id => 'seven', source => '/shop', key => 'k', \
         at => '2026-01-02 03:04:05.678901+00', subject => 's', ordered => true, \
         extensions => '{\"x\": -300, \"y\": true, \"a\": \"text\"}')",
        "publish_text('a.c', 'text', at => '1901-01-01 00:00:00.5+00')",
        "publish_bytes('a.c', '\\xff00', content_type => 'image/png')",
        "publish('a.b', id => 'seven', source => '/shop')",
    ];
    for (expected, call) in [1_i64, 2, 3, 4, 2].into_iter().zip(calls) {
        let answer = client
            .query_one(&format!("SELECT {call}"), &[])
            .await
            .unwrap();
        assert_eq!(answer.get::<_, i64>(0), expected);
    }
    let query = EventQuery {
        limit: 10,
        ..EventQuery::default()
    };
    let page = backend.history().unwrap().events(&query).await.unwrap();
    let events: Vec<_> = page.items.into_iter().map(|item| item.event).collect();
    let expected = Event::builder("a.b".parse().unwrap())
        .id(EventId::parse("seven").unwrap())
        .source("/shop")
        .key("k")
        .subject("s")
        .time("2026-01-02T03:04:05.678901Z".parse().unwrap())
        .extension("x", -300)
        .extension("y", true)
        .extension("a", "text")
        .data(Data::json("{\"n\": 1}"));
    assert_eq!(events[1], expected.build().unwrap());
    assert_eq!(&**events[0].source(), "/postgres/postgres");
    assert!(matches!(events[0].id(), EventId::Uuid(id) if id.get_version_num() == 7));
    assert_eq!(events[2].data(), Some(&Data::text("text")));
    assert_eq!(
        events[2].time(),
        Some("1901-01-01T00:00:00.5Z".parse().unwrap())
    );
    assert_eq!(events[3].data(), Some(&Data::binary(b"\xff\0".to_vec())));
    assert_eq!(events[3].content_type(), Some("image/png"));
}

#[tokio::test]
async fn sql_refuses_what_is_no_event() {
    let broker = server().await;
    let _backend = open(broker.address()).await;
    let client = sql(&broker, "SET search_path = fanfare_orders").await;
    for call in [
        "publish('a..b')",
        "publish('a.b', id => '')",
        "publish('a.b', source => 'a b')",
        "publish('a.b', extensions => '{\"A\": 1}')",
        "publish('a.b', extensions => '{\"a\": []}')",
    ] {
        let refused = client.query_one(&format!("SELECT {call}"), &[]).await;
        let code = refused.unwrap_err().code().unwrap().code().to_owned();
        assert_eq!(code, "22023", "{call}");
    }
}

#[tokio::test]
async fn a_role_that_may_only_publish_publishes() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let grants = "CREATE ROLE shop LOGIN; GRANT USAGE ON SCHEMA fanfare_orders TO shop; \
                  GRANT EXECUTE ON FUNCTION fanfare_orders.publish, fanfare_orders.lock_keys TO shop";
    sql(&broker, grants).await;
    let shop = session(&format!("postgres://shop@{}/postgres", broker.address())).await;
    let published = "SELECT fanfare_orders.publish('a.b', key => 'k', ordered => true)";
    shop.batch_execute(published).await.unwrap();
    for forbidden in [
        "SELECT * FROM fanfare_orders.log",
        "INSERT INTO fanfare_orders.log (data) VALUES ('')",
        "SELECT fanfare_orders.trim(1, 1)",
        "SELECT nextval('fanfare_orders.log_pos')",
    ] {
        let refused = shop.batch_execute(forbidden).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "42501", "{forbidden}");
    }
    assert_eq!(backend.admin().stats().await.unwrap().events, 1);
}

#[tokio::test]
async fn a_transaction_decides_about_its_events() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let member = member(&backend).await;
    let mut client = sql(&broker, "SELECT 1").await;
    let (gone, kept) = (event("gone"), event("kept"));
    let transaction = client.transaction().await.unwrap();
    backend.publish_in(&transaction, &[gone]).await.unwrap();
    transaction.rollback().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    backend.lock_keys(&transaction, &["k", "l"]).await.unwrap();
    let kept = std::slice::from_ref(&kept);
    let first = backend.publish_in(&transaction, kept).await.unwrap();
    let again = backend.publish_in(&transaction, kept).await.unwrap();
    assert_eq!((first[0].duplicate, again[0].duplicate), (false, true));
    assert_eq!(first[0].position, again[0].position);
    transaction.commit().await.unwrap();
    backend.committed();
    assert_eq!(take(&member, 1).await, ["kept"]);
}

#[tokio::test]
async fn duplicates_are_known_across_a_change_of_buckets() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    let rotate = "SELECT fanfare_orders.rotate('0')";
    let first = event("first");
    publish(&backend, &first).await.unwrap();
    // One that began before the change and writes after it.
    let old = sql(&broker, &format!("BEGIN; {}", function("begins"))).await;
    let client = sql(&broker, rotate).await;
    client.batch_execute(rotate).await.unwrap();
    let twice = "SELECT fanfare_orders.publish_text('a.b', 'twice', id => 'twice')";
    old.batch_execute(twice).await.unwrap();
    let waiting = sql(&broker, "SET lock_timeout = '100ms'").await;
    let blocked = waiting.batch_execute(twice).await.unwrap_err();
    assert_eq!(blocked.code().unwrap().code(), "55P03");
    old.batch_execute("COMMIT").await.unwrap();
    waiting.batch_execute(twice).await.unwrap();
    assert_eq!(backend.admin().stats().await.unwrap().events, 3);
    assert!(publish(&backend, &first).await.unwrap().duplicate);
    // All turns, until the bucket of the first is emptied.
    for _ in 0..12 {
        client.batch_execute(rotate).await.unwrap();
    }
    assert!(!publish(&backend, &first).await.unwrap().duplicate);
}

#[tokio::test]
async fn keys_are_locked_in_one_order_and_in_bounded_number() {
    let broker = server().await;
    let _backend = open(broker.address()).await;
    let many =
        "SELECT fanfare_orders.lock_keys(array_agg('k' || n)) FROM generate_series(1, 30000) n";
    sql(&broker, many).await;
    let rounds = |keys: &'static str| {
        let broker = &broker;
        async move {
            let client = sql(broker, "SET deadlock_timeout = '100ms'").await;
            for _ in 0..200 {
                let lock = format!("SELECT fanfare_orders.lock_keys(ARRAY[{keys}])");
                client.batch_execute(&lock).await.unwrap();
            }
        }
    };
    // In this order of buckets in one, in the opposite in the other.
    tokio::join!(rounds("'k0', 'k1', 'k82'"), rounds("'k119', 'k82', 'k0'"));
}

#[tokio::test]
async fn what_is_migrated_down_is_gone() {
    let broker = server().await;
    let backend = open(broker.address()).await;
    publish(&backend, &event("first")).await.unwrap();
    backend.close().await.unwrap();
    let config = config(broker.address());
    PostgresBackend::migrate_down(config.clone(), 1)
        .await
        .unwrap();
    let backend = PostgresBackend::open(config.clone()).await.unwrap();
    let member = member(&backend).await;
    assert_eq!(take(&member, 1).await, ["first"]);
    backend.close().await.unwrap();
    PostgresBackend::migrate_down(config, 0).await.unwrap();
    let client = sql(&broker, "SELECT 1").await;
    let left = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'fanfare%'";
    assert_eq!(
        client.query_one(left, &[]).await.unwrap().get::<_, i64>(0),
        0
    );
}
