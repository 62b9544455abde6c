//! A9: handlers that only log, events that are off, Redis that is away.

use serde_json::{Value, json};

use super::stage::{Stage, created, event, some_id};

#[tokio::test]
async fn a09_the_logging_handler_says_what_it_hears_and_takes_nothing_from_the_others() {
    let mut stage = Stage::set().await;
    let source = some_id();
    let updated = json!({"changed_fields": [], "previous": null, "current": {"max_depth": 3}});
    let events = [
        created(&source, 0),
        event("SOURCE_UPDATED", &source, 1, updated),
        event(
            "SOURCE_DISABLED",
            &source,
            2,
            json!({"reason": "", "toggled_by": "user"}),
        ),
        event("SOURCE_ENABLED", &source, 3, Value::Null),
        event(
            "SOURCE_DELETED",
            &source,
            4,
            json!({"name": "", "deletion_reason": ""}),
        ),
    ];
    for event in &events {
        stage.they_publish(event).await;
    }
    stage.crawler.start_with(&[("CRAWLER_HANDLER", "log")]);
    for event in &events {
        let kind = event["event_type"].as_str().unwrap();
        let line = stage.crawler.heard(&format!("[NOOP] {kind} received"));
        let said = format!("[NOOP] {kind} received source_id={source}");
        assert!(line.ends_with(&said), "{line}");
    }
    assert_eq!(stage.crawler.get("/api/v1/jobs").await, json!([]));
    // Those that do something begin where they would have begun.
    stage.crawler.start();
    let other = some_id();
    stage.they_publish(&created(&other, 0)).await;
    stage.job(&other, |_| true).await;
    stage.settled().await;
    assert_eq!(stage.crawler.lines(&source).len(), events.len());
}

#[tokio::test]
async fn a09_events_are_off_unless_they_are_switched_on() {
    let mut stage = Stage::set().await;
    for service in [&mut stage.sources, &mut stage.crawler] {
        service.start_with(&[
            ("REDIS_EVENTS_ENABLED", "false"),
            ("REDIS_ADDRESS", "127.0.0.1:1"),
        ]);
    }
    let new = json!({"name": "n", "url": "http://127.0.0.1:9/"});
    stage.sources.post("/api/v1/sources", &new).await;
    assert_eq!(stage.crawler.get("/api/v1/jobs").await, json!([]));
    for service in [&mut stage.sources, &mut stage.crawler] {
        assert_eq!(service.lines("WARN"), Vec::<String>::new());
        service.stop();
    }
    let events = job_lifecycle::settings::Events::read(&|_| None);
    assert!(!events.unwrap().enabled);
}

#[tokio::test]
async fn a09_both_services_run_and_warn_while_redis_is_away() {
    let mut stage = Stage::set().await;
    stage.redis.kill().unwrap();
    stage.sources.start();
    stage.crawler.start();
    let new = json!({"name": "n", "url": "http://127.0.0.1:9/", "priority": "low"});
    let source = stage.sources.post("/api/v1/sources", &new).await;
    assert_eq!(stage.crawler.get("/api/v1/jobs").await, json!([]));
    for service in [&stage.sources, &stage.crawler] {
        let warned = service.heard("waiting for a server");
        assert!(
            warned.contains("WARN") && warned.contains("redis"),
            "{warned}"
        );
    }
    stage.redis.restart().await.unwrap();
    stage.job(source["id"].as_str().unwrap(), |_| true).await;
    // Away again, they can be stopped.
    stage.redis.kill().unwrap();
    stage.sources.start();
    stage.crawler.start();
    stage.sources.stop();
    stage.crawler.stop();
}
