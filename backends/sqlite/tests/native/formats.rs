//! Every format that was ever written opens for ever. `tests/fixtures/format-1.sql` is a dump of a stream
//! that died in the middle of its work; [`write_fixture`] made it and never runs again.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use fanfare_core::backend::Backend;
use fanfare_core::data::Data;
use fanfare_core::dead_letter::{DeadLetterFilter, Selection};
use fanfare_core::delivery::Settlement;
use fanfare_core::event::Event;
use fanfare_core::id::EventId;
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::SubscriptionSpec;
use fanfare_sqlite::SqliteBackend;

use super::stage::*;

/// The 20 events of the fixture: some with text ids, some with everything an event may have.
fn events() -> Vec<Event> {
    let mut events: Vec<Event> = (1..=20)
        .map(|n| keyed(n, Some(["a", "b"][(n % 2) as usize])))
        .collect();
    events[4] = Event::builder("other.thing".parse().unwrap())
        .id(EventId::parse("order 7/ü").unwrap())
        .source("https://example.org/shop")
        .subject("7")
        .time("2026-11-20T12:00:00.123456789Z".parse().unwrap())
        .content_type("text/plain")
        .schema("https://example.org/schema")
        .extension("flag", true)
        .extension("number", -7)
        .data(Data::text("grüße"))
        .build()
        .unwrap();
    events[5] = Event::builder("other.empty".parse().unwrap())
        .id(EventId::parse("no-data").unwrap())
        .build()
        .unwrap();
    events
}

fn retry() -> Settlement {
    Settlement::Retry {
        after: Duration::from_hours(1),
        error: "not yet".into(),
    }
}

fn dead() -> Settlement {
    Settlement::DeadLetter {
        reason: "rejected".into(),
        error: "no such user 17".into(),
    }
}

#[tokio::test]
#[ignore = "wrote the fixture, which is frozen"]
async fn write_fixture() {
    let dir = tempfile::tempdir().unwrap();
    let backend = open(dir.path()).await;
    let admin = backend.admin();
    admin.put(&spec("all", "**")).await.unwrap();
    let ordered = SubscriptionSpec {
        ordered: true,
        lease: Duration::from_mins(1),
        ..spec("ordered", "test.*")
    };
    admin.put(&ordered).await.unwrap();
    admin.put(&spec("paused", "other.**")).await.unwrap();
    admin.set_paused(&name("paused"), true).await.unwrap();
    backend.publish(&events()[..10]).await.unwrap();
    let patterns = PatternSet::parse(["test.odd", "other.*"]).unwrap();
    admin.set_patterns(&name("paused"), patterns).await.unwrap();
    backend.publish(&events()[10..]).await.unwrap();
    backend.state().increment("counter", 41).await.unwrap();
    let value = Bytes::from_static(b"\x00\xff");
    backend.state().put_if_absent("bytes", value).await.unwrap();
    for sub in ["all", "ordered"] {
        let consumer = join(&backend, sub).await;
        let deliveries = receive(&consumer, 8).await;
        settle(&consumer, &deliveries[0], Settlement::Ack).await;
        settle(&consumer, &deliveries[1], retry()).await;
        if sub == "all" {
            settle(&consumer, &deliveries[2], dead()).await;
            settle(&consumer, &deliveries[3], dead()).await;
            settle(&consumer, &deliveries[6], Settlement::Drop).await;
            let first = Selection::Ids(vec!["1".into()]);
            backend.dead_letters().redrive(&first, 1).await.unwrap();
            let mended = Data::json("{\"mended\":true}");
            backend.dead_letters().replace("2", mended).await.unwrap();
        }
        // Dies with the rest leased.
        std::mem::forget(consumer);
    }
    let copy = crash(dir.path());
    let dump = std::process::Command::new("sqlite3")
        .args([
            &copy.path().join("fanfare.db").display().to_string(),
            ".dump",
        ])
        .output()
        .unwrap();
    let mut sql = String::from_utf8(dump.stdout).unwrap();
    sql.insert_str(0, "PRAGMA application_id = 1178684998;\n");
    std::fs::write(fixture(), sql).unwrap();
}

fn fixture() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1.sql")
}

#[tokio::test]
async fn format_1_opens() {
    let dir = tempfile::tempdir().unwrap();
    let db = rusqlite::Connection::open(dir.path().join("fanfare.db")).unwrap();
    let sql = std::fs::read_to_string(fixture()).unwrap();
    db.execute_batch(&sql).unwrap();
    db.close().unwrap();
    let config = config(dir.path());
    let clock = config.clock.clone();
    let backend = SqliteBackend::open(config).await.unwrap();
    assert_balanced(&backend).await;
    assert!(backend.verify(true).await.unwrap().ok);
    let again = backend.publish(&events()).await.unwrap();
    assert!(
        again
            .iter()
            .all(|answer| answer.as_ref().unwrap().duplicate)
    );
    assert_eq!(backend.state().increment("counter", 1).await.unwrap(), 42);
    let bytes = backend.state().get("bytes").await.unwrap().unwrap();
    assert_eq!(bytes.value, Bytes::from_static(b"\x00\xff"));

    let counts = backend.admin().get(&name("all")).await.unwrap().counts;
    assert_eq!((counts.published, counts.acknowledged), (20, 1));
    assert_eq!((counts.dropped, counts.dead, counts.waiting), (1, 1, 17));
    let every = DeadLetterFilter::default();
    let letters = backend.dead_letters().list(&every, None, 10).await.unwrap();
    let letter = &letters.items[0];
    assert_eq!(letter.body.event().unwrap().bytes(), b"{\"mended\":true}");
    assert_eq!(letter.original.as_ref(), events()[3].data());
    assert_eq!(letter.error, "no such user 17");

    let paused = backend.admin().get(&name("paused")).await.unwrap();
    assert!(paused.paused);
    assert_eq!(paused.counts.waiting, 2 + 5, "by the patterns of each time");

    // The rest is handled, what ran alone first, and every event is as it was published.
    clock.advance(Duration::from_hours(2));
    for sub in ["all", "ordered"] {
        let consumer = join(&backend, sub).await;
        loop {
            let deliveries = receive(&consumer, 5).await;
            if deliveries.is_empty() {
                break;
            }
            for delivery in &deliveries {
                let n = usize::try_from(delivery.position.low()).unwrap();
                assert_eq!(delivery.event, events()[n - 1]);
                settle(&consumer, delivery, Settlement::Ack).await;
            }
        }
    }
    for sub in ["all", "ordered"] {
        let counts = backend.admin().get(&name(sub)).await.unwrap().counts;
        assert_eq!(counts.unsettled(), 0, "{sub}: {counts:?}");
    }
    assert_balanced(&backend).await;
}
