//! A12: what runs, what is repaired, what is shown.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::site::Site;
use super::stage::{Stage, eventually};

fn ids(value: &Value) -> (&str, String) {
    let id = value["id"].as_str().unwrap();
    (id, format!("/api/v1/jobs/{id}"))
}

#[tokio::test]
async fn a12_jobs_are_crawled_no_faster_and_no_deeper_than_asked_and_recorded() {
    let site = Site::open().await;
    let stage = Stage::running().await;
    let new = json!({"name": "site", "url": site.url, "rate_limit": "20/s", "max_depth": 2,
        "priority": "critical"});
    let source = stage.sources.post("/api/v1/sources", &new).await;
    // Critical: it runs at once.
    let ran = |job: &Value| !job["last_run_at"].is_null() && job["running_until"].is_null();
    let job = stage.job(source["id"].as_str().unwrap(), ran).await;
    let (_, path) = ids(&job);
    let pages: Vec<_> = site.asked().into_iter().map(|(page, _)| page).collect();
    assert_eq!(pages, [1, 2, 3, 4, 5, 6, 7], "two links deep, each once");
    let times = site.asked();
    let gaps = times.windows(2).map(|pair| pair[1].1.since(pair[0].1));
    assert!(
        gaps.min().unwrap() >= Duration::from_millis(45),
        "{times:?}"
    );
    let executions = stage.crawler.get(&format!("{path}/executions")).await;
    assert_eq!(executions.as_array().unwrap().len(), 1);
    assert_eq!(
        (&executions[0]["status"], &executions[0]["pages"]),
        (&json!("succeeded"), &json!(7))
    );

    // Paused it cannot be forced; resumed it can.
    stage
        .crawler
        .post(&format!("{path}/pause"), &json!({}))
        .await;
    let force = format!("{path}/force-run");
    assert_eq!(
        stage
            .crawler
            .try_ask(Method::POST, &force, None)
            .await
            .unwrap()
            .0,
        409
    );
    stage
        .crawler
        .post(&format!("{path}/resume"), &json!({}))
        .await;
    stage.crawler.post(&force, &json!({})).await;
    let count = async || {
        let executions = stage.crawler.get(&format!("{path}/executions")).await;
        (executions.as_array().unwrap().len() == 2).then_some(())
    };
    eventually(count).await;

    // A site that is not there: the job has failed, and waits twice as long.
    let lost = json!({"name": "lost", "url": "http://127.0.0.1:1/", "priority": "critical"});
    let lost = stage.crawler.post("/api/v1/jobs", &lost).await;
    let (_, path) = ids(&lost);
    let failed = async || Some(stage.crawler.get(&path).await).filter(|job| job["failures"] == 1);
    eventually(failed).await;
    let executions = stage.crawler.get(&format!("{path}/executions")).await;
    assert_eq!(executions[0]["status"], "failed");
    assert!(executions[0]["error"].is_string());

    let nobody = format!("/api/v1/jobs/{}", Uuid::new_v4());
    assert_eq!(
        stage
            .crawler
            .try_ask(Method::GET, &nobody, None)
            .await
            .unwrap()
            .0,
        404
    );
    let stats = stage.crawler.get("/api/v1/jobs/stats").await;
    assert_eq!(
        (&stats["jobs"], &stats["executions"]["failed"]),
        (&json!({"active": 2}), &json!(1))
    );
    let Value::String(metrics) = stage.crawler.get("/metrics").await else {
        panic!("no text")
    };
    for sample in [
        "crawler_jobs{status=\"active\"} 2",
        "crawler_executions{status=\"failed\"} 1",
        "crawler_repairs_total{kind=\"missing\"} 0",
        "crawler-workers",
    ] {
        assert!(metrics.contains(sample), "{sample} in {metrics}");
    }
    let Value::String(metrics) = stage.sources.get("/metrics").await else {
        panic!("no text")
    };
    assert!(metrics.contains("fanfare_forwarded_total"), "{metrics}");
}

#[tokio::test]
async fn a12_reconciliation_repairs_what_events_did_not() {
    let mut stage = Stage::set().await;
    // Events are off while the sources change.
    stage
        .sources
        .start_with(&[("REDIS_EVENTS_ENABLED", "false")]);
    stage.crawler.start();
    let new = |name: &str, enabled: bool| json!({"name": name, "url": "http://127.0.0.1:9/", "priority": "low", "enabled": enabled});
    let missing = stage
        .sources
        .post("/api/v1/sources", &new("missing", true))
        .await;
    stage
        .sources
        .post("/api/v1/sources", &new("off", false))
        .await;
    let repairs = stage.crawler.post("/api/v1/reconcile", &json!({})).await;
    assert_eq!(
        repairs,
        json!({"missing": 1, "orphaned": 0, "differing": 0})
    );
    let (id, _) = ids(&missing);
    stage.job(id, |job| job["name"] == "missing").await;
    let path = format!("/api/v1/sources/{id}");
    let deeper = json!({"max_depth": 9});
    stage.sources.ask(Method::PUT, &path, Some(&deeper)).await;
    let repairs = stage.crawler.post("/api/v1/reconcile", &json!({})).await;
    assert_eq!(
        repairs,
        json!({"missing": 0, "orphaned": 0, "differing": 1})
    );
    stage.job(id, |job| job["max_depth"] == 9).await;
    stage.sources.ask(Method::DELETE, &path, None).await;
    let by_hand = stage
        .crawler
        .post("/api/v1/jobs", &new("by hand", true))
        .await;
    let repairs = stage.crawler.post("/api/v1/reconcile", &json!({})).await;
    assert_eq!(
        repairs,
        json!({"missing": 0, "orphaned": 1, "differing": 0})
    );
    assert_eq!(stage.crawler.get("/api/v1/jobs").await, json!([by_hand]));
    let repairs = stage.crawler.post("/api/v1/reconcile", &json!({})).await;
    assert_eq!(
        repairs,
        json!({"missing": 0, "orphaned": 0, "differing": 0})
    );
}
