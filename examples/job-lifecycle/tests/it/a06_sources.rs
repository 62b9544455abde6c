//! A6: the API of the source-manager.

use fanfare::core::timestamp::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use super::stage::Stage;

fn time(of: &Value, name: &str) -> Timestamp {
    of[name].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a06_sources_are_made_read_changed_and_deleted_and_each_change_is_said() {
    let mut stage = Stage::set().await;
    stage.sources.start();
    let sources = &stage.sources;
    let new = json!({"name": "News", "url": "https://example.com"});
    let made = sources.post("/api/v1/sources", &new).await;
    assert_eq!(made["priority"], "normal");
    assert_eq!(made["enabled"], true);
    let id = made["id"].as_str().unwrap();
    let path = format!("/api/v1/sources/{id}");
    assert_eq!(sources.get(&path).await, made);

    // What is as it was is no change.
    let same = json!({"rate_limit": "10/s"});
    assert_eq!(sources.ask(Method::PUT, &path, Some(&same)).await, made);
    let change = json!({"max_depth": 4, "enabled": false, "name": "News"});
    let changed = sources.ask(Method::PUT, &path, Some(&change)).await;
    assert_eq!(changed["max_depth"], 4);
    assert_eq!(changed["enabled"], false);
    assert!(time(&changed, "updated_at") > time(&made, "updated_at"));
    let enable = format!("{path}/enable");
    let enabled = sources.post(&enable, &json!({})).await;
    assert_eq!(enabled["enabled"], true);
    let again = sources.ask(Method::POST, &enable, None).await;
    assert_eq!(again, enabled, "and no body is needed");
    sources.ask(Method::DELETE, &path, None).await;
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(sources.try_ask(method, &path, None).await.unwrap().0, 404);
    }

    let events = stage.events_of(id, 4).await;
    assert_eq!(events.len(), 4, "{events:?}");
    let expected = json!({"changed_fields": ["enabled", "max_depth"],
        "previous": {"enabled": true, "max_depth": 2},
        "current": {"enabled": false, "max_depth": 4}});
    assert_eq!(events[1]["payload"], expected);
    assert!(events.is_sorted_by_key(|event| time(event, "timestamp")));
}

#[tokio::test]
async fn a06_rates_are_read_as_they_come_and_what_makes_no_source_is_refused() {
    let mut stage = Stage::set().await;
    stage.sources.start();
    let sources = &stage.sources;
    let mut new = json!({"name": "n", "url": "http://example.com"});
    let made = sources.post("/api/v1/sources", &new).await;
    assert_eq!(made["rate_limit"], 10, "where it is missing");
    for (limit, read) in [
        (json!("25/s"), 25),
        (json!(7), 7),
        (json!("fast"), 10),
        (json!("0/s"), 10),
        (Value::Null, 10),
    ] {
        new["rate_limit"] = limit;
        let made = sources.post("/api/v1/sources", &new).await;
        assert_eq!(made["rate_limit"], read);
    }
    for bad in [
        json!({"name": "", "url": "http://example.com"}),
        json!({"name": "n", "url": "ftp://example.com"}),
        json!({"name": "n"}),
    ] {
        let refused = sources.try_ask(Method::POST, "/api/v1/sources", Some(&bad));
        assert_eq!(refused.await.unwrap().0, 422, "{bad}");
    }
    let page = sources.get("/api/v1/sources?limit=4").await;
    assert_eq!(page["sources"].as_array().unwrap().len(), 4);
    let next = page["next"].as_str().unwrap();
    let path = format!("/api/v1/sources?limit=4&after={next}");
    let page = sources.get(&path).await;
    assert_eq!(page["sources"].as_array().unwrap().len(), 2);
    assert_eq!(page["next"], Value::Null);
}

#[tokio::test]
async fn a06_a_put_that_flips_enabled_pauses_and_resumes_the_job() {
    let stage = Stage::running().await;
    let new = json!({"name": "n", "url": "http://127.0.0.1:9/", "priority": "low"});
    let source = stage.sources.post("/api/v1/sources", &new).await;
    let id = source["id"].as_str().unwrap();
    stage.job(id, |job| job["status"] == "active").await;
    for (enabled, status) in [(false, "paused"), (true, "active")] {
        let flip = json!({"enabled": enabled});
        let path = format!("/api/v1/sources/{id}");
        stage.sources.ask(Method::PUT, &path, Some(&flip)).await;
        stage.job(id, |job| job["status"] == status).await;
    }
}
