//! A11: what jobs come of sources, and when they run.

use std::time::Duration;

use job_lifecycle::events::{Priority, RateLimit, SourceDetails};
use job_lifecycle::schedule::{after_failures, first_delay, interval};
use serde_json::{Value, json};

use super::stage::{Stage, created, event, seconds_between, some_id};

fn source(priority: Priority, rate_limit: u32, max_depth: u32) -> SourceDetails {
    SourceDetails {
        name: "n".into(),
        url: "http://example.com".into(),
        rate_limit: RateLimit(rate_limit),
        max_depth,
        enabled: true,
        selectors: None,
        priority,
    }
}

#[test]
fn a11_the_schedule_is_as_its_table_says() {
    let priorities = [
        (Priority::Critical, 15.0, 0, 100),
        (Priority::High, 30.0, 1, 75),
        (Priority::Normal, 60.0, 5, 50),
        (Priority::Low, 180.0, 10, 25),
    ];
    let rates = [
        (1, 1.5),
        (5, 1.5),
        (6, 1.0),
        (10, 1.0),
        (11, 0.75),
        (20, 0.75),
        (21, 0.5),
        (900, 0.5),
    ];
    let depths = [
        (0, 1.0),
        (2, 1.0),
        (3, 1.25),
        (5, 1.25),
        (6, 1.5),
        (90, 1.5),
    ];
    for (priority, base, first, number) in priorities {
        assert_eq!(first_delay(priority), Duration::from_mins(first));
        assert_eq!(priority.number(), number);
        for (rate, by_rate) in rates {
            for (depth, by_depth) in depths {
                let minutes = base * by_rate * by_depth;
                let expected = Duration::from_secs_f64(minutes * 60.0);
                assert_eq!(interval(&source(priority, rate, depth)), expected);
                for failures in 0..40 {
                    let minutes = (minutes * 2_f64.powi(failures)).min(24.0 * 60.0);
                    let expected = Duration::from_secs_f64(minutes * 60.0);
                    let failures = u32::try_from(failures).unwrap();
                    let given = after_failures(interval(&source(priority, rate, depth)), failures);
                    assert_eq!(given, expected, "{priority:?} {rate} {depth} {failures}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a11_jobs_follow_their_sources_and_what_people_made_is_left_alone() {
    let stage = Stage::crawling().await;
    let id = some_id();
    let by_hand =
        json!({"source_id": id, "name": "mine", "url": "http://127.0.0.1:9/", "priority": "low"});
    let mine = stage.crawler.post("/api/v1/jobs", &by_hand).await;
    assert_eq!(mine["auto_managed"], false);
    let mut off = created(&id, 0);
    off["payload"]["enabled"] = false.into();
    stage.they_publish(&off).await;
    stage.settled().await;
    stage.no_job(&id).await;

    stage
        .they_publish(&event("SOURCE_ENABLED", &id, 1, Value::Null))
        .await;
    let job = stage.job(&id, |_| true).await;
    assert_eq!(
        (&job["status"], &job["priority"]),
        (&json!("active"), &json!(25))
    );
    assert!(
        (seconds_between(&job, "created_at", "next_run_at") - 600.0).abs() < 1.0,
        "{job}"
    );

    for (second, current, interval, first) in [
        (2, json!({"rate_limit": 21}), 5_400.0, 600.0),
        (3, json!({"max_depth": 6}), 8_100.0, 600.0),
        (4, json!({"priority": "high"}), 1_350.0, 60.0),
    ] {
        let payload = json!({"current": current});
        stage
            .they_publish(&event("SOURCE_UPDATED", &id, second, payload))
            .await;
        let job = stage
            .job(&id, |job| job["interval_seconds"] == interval)
            .await;
        let waits = seconds_between(&job, "created_at", "next_run_at");
        assert!((waits - first).abs() < 1.0, "rescheduled: {job}");
    }
    stage
        .they_publish(&event("SOURCE_DISABLED", &id, 5, Value::Null))
        .await;
    let paused = stage.job(&id, |job| job["status"] == "paused").await;
    stage
        .they_publish(&event("SOURCE_ENABLED", &id, 6, Value::Null))
        .await;
    let resumed = stage.job(&id, |job| job["status"] == "active").await;
    assert_eq!(paused["id"], resumed["id"], "resumed, not made again");
    stage
        .they_publish(&event("SOURCE_DELETED", &id, 7, json!({})))
        .await;
    stage.no_job(&id).await;
    let left = stage
        .crawler
        .get(&format!("/api/v1/jobs/by-source/{id}"))
        .await;
    assert_eq!(left, json!([mine]));
}
