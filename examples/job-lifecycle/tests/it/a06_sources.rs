//! A6: the API of the source-manager.

use reqwest::Method;
use serde_json::{Value, json};

use super::stage::Stage;

#[tokio::test]
async fn a06_sources_are_made_read_changed_and_deleted() {
    let mut stage = Stage::set().await;
    stage.sources.start();
    let sources = &stage.sources;
    for (limit, read) in [
        (json!("25/s"), 25),
        (json!(7), 7),
        (json!("fast"), 10),
        (json!("0/s"), 10),
        (Value::Null, 10),
    ] {
        let new = json!({"name": "n", "url": "http://example.com", "rate_limit": limit});
        assert_eq!(
            sources.post("/api/v1/sources", &new).await["rate_limit"],
            read
        );
    }
    let new = json!({"name": "News", "url": "https://example.com"});
    let made = sources.post("/api/v1/sources", &new).await;
    assert_eq!(made["rate_limit"], 10, "where it is missing");
    assert_eq!(
        (&made["priority"], &made["enabled"]),
        (&json!("normal"), &json!(true))
    );
    let id = made["id"].as_str().unwrap();
    let path = format!("/api/v1/sources/{id}");
    assert_eq!(sources.get(&path).await, made);

    // What is as it was is no change.
    let same = sources
        .ask(Method::PUT, &path, Some(&json!({"rate_limit": "10/s"})))
        .await;
    assert_eq!(same, made);
    let change = json!({"max_depth": 4, "enabled": false, "name": "News"});
    let changed = sources.ask(Method::PUT, &path, Some(&change)).await;
    assert_eq!(
        (&changed["max_depth"], &changed["enabled"]),
        (&json!(4), &json!(false))
    );
    assert!(changed["updated_at"].as_str() > made["updated_at"].as_str());
    assert_eq!(
        sources.post(&format!("{path}/enable"), &json!({})).await["enabled"],
        true
    );
    let again = sources
        .ask(Method::POST, &format!("{path}/enable"), None)
        .await;
    assert_eq!(again["enabled"], true, "no body is needed");

    for bad in [
        json!({"name": "", "url": "http://example.com"}),
        json!({"name": "n", "url": "ftp://example.com"}),
        json!({"name": "n"}),
    ] {
        let (status, said) = sources
            .try_ask(Method::POST, "/api/v1/sources", Some(&bad))
            .await
            .unwrap();
        assert_eq!(status, 422, "{bad}: {said}");
    }

    let first = sources.get("/api/v1/sources?limit=4").await;
    assert_eq!(first["sources"].as_array().unwrap().len(), 4);
    let next = first["next"].as_str().unwrap();
    let rest = sources
        .get(&format!("/api/v1/sources?limit=4&after={next}"))
        .await;
    assert_eq!(
        (rest["sources"].as_array().unwrap().len(), &rest["next"]),
        (2, &Value::Null)
    );

    sources.ask(Method::DELETE, &path, None).await;
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(sources.try_ask(method, &path, None).await.unwrap().0, 404);
    }
    let events = stage.events_of(id, 4).await;
    let expected = json!({"changed_fields": ["enabled", "max_depth"],
        "previous": {"enabled": true, "max_depth": 2},
        "current": {"enabled": false, "max_depth": 4}});
    assert_eq!(events[1]["payload"], expected);
    assert_eq!(
        events.len(),
        4,
        "nothing is said of what did not change: {events:?}"
    );
    let times: Vec<_> = events
        .iter()
        .map(|event| event["timestamp"].as_str())
        .collect();
    assert!(times.is_sorted());
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
    let listens = stage.sources.heard("listening on");
    assert!(listens.ends_with(&stage.sources.url()), "{listens}");
}
