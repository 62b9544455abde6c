//! A3: what stands in the stream, written by us and by others.

use fanfare::core::timestamp::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::stage::{Stage, created, event, some_id};

fn members(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[tokio::test]
async fn a03_our_entries_have_the_members_that_existing_services_read() {
    let mut stage = Stage::set().await;
    stage.sources.start();
    let new = json!({"name": "News", "url": "https://example.com", "rate_limit": "20/s", "max_depth": 3,
        "selectors": {"title": "h1"}, "priority": "high"});
    let source = stage.sources.post("/api/v1/sources", &new).await;
    let id = source["id"].as_str().unwrap();
    let path = format!("/api/v1/sources/{id}");
    let change = json!({"rate_limit": "5/s", "enabled": false});
    stage.sources.ask(Method::PUT, &path, Some(&change)).await;
    let why = json!({"reason": "back again", "toggled_by": "system"});
    stage.sources.post(&format!("{path}/enable"), &why).await;
    stage.sources.ask(Method::DELETE, &path, None).await;
    let events = stage.events_of(id, 4).await;
    for event in &events {
        let names = [
            "event_id",
            "event_type",
            "payload",
            "source_id",
            "timestamp",
        ];
        assert_eq!(members(event), names);
        let text = |name: &str| event[name].as_str().unwrap();
        text("event_id").parse::<Uuid>().unwrap();
        text("timestamp").parse::<Timestamp>().unwrap();
    }
    let payloads: Vec<_> = events
        .into_iter()
        .map(|mut event| event["payload"].take())
        .collect();
    let expected = [
        json!({"name": "News", "url": "https://example.com", "rate_limit": 20, "max_depth": 3,
            "enabled": true, "selectors": {"title": "h1"}, "priority": "high"}),
        json!({"changed_fields": ["enabled", "rate_limit"],
            "previous": {"enabled": true, "rate_limit": 20},
            "current": {"enabled": false, "rate_limit": 5}}),
        json!({"reason": "back again", "toggled_by": "system"}),
        json!({"name": "News", "deletion_reason": "user_requested"}),
    ];
    assert_eq!(payloads, expected);
}

#[tokio::test]
async fn a03_what_existing_publishers_send_is_understood() {
    let stage = Stage::crawling().await;
    let source = some_id();
    stage.they_publish(&created(&source, 0)).await;
    let job = stage.job(&source, |_| true).await;
    assert_eq!(
        (&job["rate_limit"], &job["interval_seconds"]),
        (&json!(10), &json!(10_800.0))
    );
    // They do not say what changed, and send the limit as a text.
    let current = json!({"name": "Example", "url": "http://127.0.0.1:9/", "rate_limit": "20/s",
        "max_depth": 2, "enabled": true, "created_at": "2026-11-20T10:00:00Z", "priority": null});
    let payload = json!({"changed_fields": [], "previous": null, "current": current});
    stage
        .they_publish(&event("SOURCE_UPDATED", &source, 1, payload))
        .await;
    let job = stage.job(&source, |job| job["rate_limit"] == 20).await;
    assert_eq!(
        job["interval_seconds"], 8_100.0,
        "compared with the job itself"
    );
    stage
        .they_publish(&event("SOURCE_DISABLED", &source, 2, Value::Null))
        .await;
    stage.job(&source, |job| job["status"] == "paused").await;
    let payload = json!({"name": "", "deletion_reason": "user_requested"});
    stage
        .they_publish(&event("SOURCE_DELETED", &source, 3, payload))
        .await;
    stage.no_job(&source).await;
    stage.settled().await;
}
