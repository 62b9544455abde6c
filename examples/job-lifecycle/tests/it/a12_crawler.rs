//! A12: what runs, what is repaired, what is shown.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::site::Site;
use super::stage::{Stage, eventually, seconds_between};

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

    // A site that is not there: the run has failed, and the next is twice as far away.
    let lost = json!({"name": "lost", "url": "http://127.0.0.1:1/", "priority": "critical"});
    let lost = stage.crawler.post("/api/v1/jobs", &lost).await;
    let (_, path) = ids(&lost);
    let failed = async || Some(stage.crawler.get(&path).await).filter(|job| job["failures"] == 1);
    let failed = eventually(failed).await;
    let waits = seconds_between(&failed, "last_run_at", "next_run_at");
    assert!((waits - 1_800.0).abs() < 60.0, "{failed}");
    let executions = stage.crawler.get(&format!("{path}/executions")).await;
    assert_eq!(executions[0]["status"], "failed");
    assert!(executions[0]["error"].is_string());
}

#[tokio::test]
async fn a12_jobs_are_listed_paused_resumed_forced_and_counted() {
    let site = Site::open().await;
    let stage = Stage::running().await;
    let crawler = &stage.crawler;
    let new = json!({"name": "mine", "url": site.url, "max_depth": 0, "priority": "low"});
    let (id, path) = {
        let made = crawler.post("/api/v1/jobs", &new).await;
        let (id, path) = ids(&made);
        assert_eq!(crawler.get(&path).await, made);
        assert_eq!(crawler.get("/api/v1/jobs").await, json!([made]));
        (id.to_owned(), path)
    };
    let (pause, force) = (format!("{path}/pause"), format!("{path}/force-run"));
    assert_eq!(crawler.post(&pause, &json!({})).await["status"], "paused");
    let (status, _) = crawler.try_ask(Method::POST, &force, None).await.unwrap();
    assert_eq!(status, 409, "it is paused");
    let resumed = crawler.post(&format!("{path}/resume"), &json!({})).await;
    assert_eq!(resumed["status"], "active");
    crawler.post(&force, &json!({})).await;
    let ran = async || {
        let counts = crawler.get("/api/v1/jobs/stats").await;
        (counts["executions"]["succeeded"] == 1).then_some(counts)
    };
    let counts = eventually(ran).await;
    let expected = json!({"jobs": {"active": 1}, "auto_managed": 0, "due": 0,
        "executions": {"succeeded": 1}, "pages": 1, "processed_events": 0});
    assert_eq!(counts, expected);

    let nobody = path.replace(&id, &Uuid::new_v4().to_string());
    let (status, _) = crawler.try_ask(Method::GET, &nobody, None).await.unwrap();
    assert_eq!(status, 404);
    for (service, samples) in [
        (
            &stage.sources,
            &["fanfare_forwarded_total", "to-redis"] as &[_],
        ),
        (
            crawler,
            &[
                "crawler_jobs{status=\"active\"} 1",
                "crawler_executions{status=\"succeeded\"} 1",
                "crawler_repairs_total{kind=\"missing\"} 0",
                "crawler-workers",
            ],
        ),
    ] {
        // Redis is connected to in the background.
        eventually(async || {
            let metrics = service.get("/metrics").await.to_string().replace('\\', "");
            let all = samples.iter().all(|sample| metrics.contains(sample));
            all.then_some(())
        })
        .await;
    }
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
