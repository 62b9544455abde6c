//! A4: the publisher, and what is logged on both sides.

use std::time::Duration;

use fanfare::core::clock::Clock;
use fanfare::core::timestamp::Timestamp;
use job_lifecycle::events::SourceDeleted;
use job_lifecycle::settings::SourceManager;
use job_lifecycle::source_manager::publisher::{Publisher, about};
use serde_json::json;
use uuid::Uuid;

use super::stage::{Stage, database, eventually};

fn settings(stage: &Stage, enabled: &str) -> SourceManager {
    SourceManager::read(&|name| match name {
        "REDIS_EVENTS_ENABLED" => Some(enabled.to_owned()),
        "REDIS_ADDRESS" => Some(stage.redis.address().to_string()),
        "SOURCE_MANAGER_DATABASE_URL" => Some(database(&stage.postgres, "source_manager")),
        _ => None,
    })
    .unwrap()
}

fn gone() -> SourceDeleted {
    SourceDeleted {
        name: "n".into(),
        deletion_reason: "r".into(),
    }
}

#[tokio::test]
async fn a04_ids_and_times_are_filled_in_and_publishing_later_is_bounded_and_logged() {
    let mut stage = Stage::set().await;
    let publisher = Publisher::open(&settings(&stage, "true")).await.unwrap();
    let began = Clock::system().now();
    let (now, later, given) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    publisher
        .publish(about(now, &gone()).unwrap())
        .await
        .unwrap();
    publisher
        .publish_later(about(later, &gone()).unwrap())
        .unwrap();
    let id = Uuid::new_v4();
    let whole = about(given, &gone())
        .unwrap()
        .id(id.to_string().parse().unwrap());
    publisher
        .publish(whole.time(Timestamp::from_millis(0)))
        .await
        .unwrap();
    stage.sources.start();
    for source in [now, later] {
        let event = stage.events_of(&source.to_string(), 1).await.remove(0);
        event["event_id"].as_str().unwrap().parse::<Uuid>().unwrap();
        let time: Timestamp = event["timestamp"].as_str().unwrap().parse().unwrap();
        assert!(time >= began, "{time}");
    }
    let event = stage.events_of(&given.to_string(), 1).await.remove(0);
    assert_eq!(event["event_id"], id.to_string());
    assert_eq!(event["timestamp"], "1970-01-01T00:00:00Z");
    // Who publishes later does not wait for a database that is away; it fails within its limit.
    stage.postgres.kill().unwrap();
    let clock = Clock::system();
    let began = clock.now();
    publisher
        .publish_later(about(later, &gone()).unwrap())
        .unwrap();
    let bus = publisher.outbox().unwrap();
    eventually(async || (bus.stats().queue_failures == 1).then_some(())).await;
    let took = clock.now().since(began);
    assert!(took < Duration::from_secs(8), "{took:?}");
    publisher.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a04_where_events_are_off_publishing_does_nothing() {
    let mut stage = Stage::set().await;
    let publisher = Publisher::open(&settings(&stage, "false")).await.unwrap();
    publisher
        .publish(about(Uuid::new_v4(), &gone()).unwrap())
        .await
        .unwrap();
    publisher
        .publish_later(about(Uuid::new_v4(), &gone()).unwrap())
        .unwrap();
    assert!(publisher.outbox().is_none());
    stage
        .sources
        .start_with(&[("REDIS_EVENTS_ENABLED", "false")]);
    let new = json!({"name": "n", "url": "http://example.com"});
    stage.sources.post("/api/v1/sources", &new).await;
    stage.sources.stop();
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'fanfare%'";
    let row = stage
        .sql("source_manager")
        .await
        .query_one(schemas, &[])
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 0, "there is not even an outbox");
}

#[tokio::test]
async fn a04_both_sides_log_type_source_and_entry() {
    let stage = Stage::running().await;
    let new = json!({"name": "n", "url": "http://127.0.0.1:9/", "priority": "low"});
    let source = stage.sources.post("/api/v1/sources", &new).await;
    let id = source["id"].as_str().unwrap();
    stage.job(id, |_| true).await;
    let entry = stage.stream().await.remove(0).0;
    for line in [
        stage.sources.heard(" published "),
        stage.crawler.heard(" processed "),
    ] {
        for said in ["SOURCE_CREATED", id, &entry] {
            assert!(line.contains(said), "{said} in {line}");
        }
    }
}
