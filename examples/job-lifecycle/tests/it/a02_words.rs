//! A2: five types of events and four priorities.

use reqwest::Method;
use serde_json::json;

use super::stage::{Stage, some_id};

#[tokio::test]
async fn a02_every_type_and_every_priority_is_said_and_others_are_refused() {
    let mut stage = Stage::set().await;
    stage.sources.start();
    for priority in ["low", "normal", "high", "critical"] {
        let new = json!({"name": priority, "url": "http://example.com", "priority": priority});
        let source = stage.sources.post("/api/v1/sources", &new).await;
        let id = source["id"].as_str().unwrap();
        let path = format!("/api/v1/sources/{id}");
        let change = json!({"name": "another"});
        stage.sources.ask(Method::PUT, &path, Some(&change)).await;
        stage
            .sources
            .post(&format!("{path}/disable"), &json!({}))
            .await;
        stage
            .sources
            .post(&format!("{path}/enable"), &json!({}))
            .await;
        stage.sources.ask(Method::DELETE, &path, None).await;
        let events = stage.events_of(id, 5).await;
        let types: Vec<_> = events.iter().map(|event| &event["event_type"]).collect();
        let expected = [
            "SOURCE_CREATED",
            "SOURCE_UPDATED",
            "SOURCE_DISABLED",
            "SOURCE_ENABLED",
            "SOURCE_DELETED",
        ];
        assert_eq!(types, expected);
        assert_eq!(events[0]["payload"]["priority"], priority);
    }
    let odd = json!({"name": "odd", "url": "http://example.com", "priority": "urgent"});
    let refused = stage
        .sources
        .try_ask(Method::POST, "/api/v1/sources", Some(&odd))
        .await;
    assert_eq!(refused.unwrap().0, 422);
    let unknown = format!("/api/v1/sources/{}", some_id());
    let (status, _) = stage
        .sources
        .try_ask(Method::GET, &unknown, None)
        .await
        .unwrap();
    assert_eq!(status, 404);
}
