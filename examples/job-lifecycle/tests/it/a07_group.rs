//! A7: one group of crawlers, ours and others', each event handled by one of them.

use std::collections::BTreeMap;
use std::time::Duration;

use fanfare::core::backend::Backend;
use fanfare::core::clock::Clock;
use fanfare::core::dead_letter::{DeadLetter, DeadLetterFilter};
use fanfare::core::retry::RetryPolicy;
use fanfare::core::subscription::SubscriptionName;
use fanfare::registry;
use job_lifecycle::crawler::GROUP;
use job_lifecycle::settings::Events;
use serde_json::json;

use super::stage::{LEASE, Stage, created, event, eventually, some_id};

/// Another look at the stream, as the crawlers see it.
async fn group(stage: &Stage) -> std::sync::Arc<dyn Backend> {
    let address = stage.redis.address().to_string();
    let events = Events::read(&|name| (name == "REDIS_ADDRESS").then(|| address.clone()));
    registry::open(events.unwrap().as_member_of(GROUP))
        .await
        .unwrap()
}

pub(super) async fn dead_letters(stage: &Stage, count: usize) -> Vec<DeadLetter> {
    let backend = group(stage).await;
    let letters = eventually(async || {
        let all = DeadLetterFilter::default();
        let page = backend.dead_letters().list(&all, None, 100).await.unwrap();
        (page.items.len() >= count).then_some(page.items)
    })
    .await;
    backend.close().await.unwrap();
    letters
}

/// Consumers of the group, and how many entries each has.
async fn consumers(stage: &Stage) -> BTreeMap<String, u64> {
    let answer = stage
        .command(&["XINFO", "CONSUMERS", "source-events", GROUP])
        .await;
    let answer: Vec<BTreeMap<String, redis::Value>> = redis::from_redis_value(answer).unwrap();
    let read = |consumer: BTreeMap<String, redis::Value>| {
        let name = redis::from_redis_value(consumer["name"].clone()).unwrap();
        (
            name,
            redis::from_redis_value(consumer["pending"].clone()).unwrap(),
        )
    };
    answer.into_iter().map(read).collect()
}

/// A member that knows nothing of us reads what is new.
async fn they_read(stage: &Stage) -> usize {
    let read = [
        "XREADGROUP",
        "GROUP",
        GROUP,
        "crawler-0badcafe",
        "STREAMS",
        "source-events",
        ">",
    ];
    let answer: Option<Vec<(String, Vec<redis::Value>)>> =
        redis::from_redis_value(stage.command(&read).await).unwrap();
    answer
        .into_iter()
        .flatten()
        .map(|(_, entries)| entries.len())
        .sum()
}

#[tokio::test]
async fn a07_idle_entries_are_taken_over() {
    let mut stage = Stage::set().await;
    let ids = [some_id(), some_id(), some_id()];
    for id in &ids {
        stage.they_publish(&created(id, 0)).await;
    }
    stage
        .command(&["XGROUP", "CREATE", "source-events", GROUP, "0"])
        .await;
    // One that dies with all of them in its hands.
    assert_eq!(they_read(&stage).await, 3);
    stage.crawler.start();
    for id in &ids {
        stage.job(id, |_| true).await;
    }
    stage.settled().await;
    // And one of ours.
    let sql = stage.sql("crawler").await;
    sql.batch_execute("BEGIN; LOCK TABLE known_sources")
        .await
        .unwrap();
    let held = some_id();
    stage.they_publish(&created(&held, 0)).await;
    stage.one_pending().await;
    stage.crawler.kill();
    sql.batch_execute("ROLLBACK").await.unwrap();
    stage.crawler.start();
    stage.job(&held, |_| true).await;
    stage.settled().await;
}

#[tokio::test]
async fn a07_nobody_steals_from_a_handler_that_lives() {
    let stage = Stage::crawling().await;
    let sql = stage.sql("crawler").await;
    let source = some_id();
    sql.batch_execute("BEGIN; LOCK TABLE known_sources")
        .await
        .unwrap();
    stage.they_publish(&created(&source, 0)).await;
    stage.one_pending().await;
    let clock = Clock::system();
    let until = clock.now() + LEASE * 4;
    let idle = LEASE.as_millis().to_string();
    let claim = [
        "XAUTOCLAIM",
        "source-events",
        GROUP,
        "crawler-0badcafe",
        &idle,
        "0",
    ];
    while clock.now() < until {
        let redis::Value::Array(answer) = stage.command(&claim).await else {
            panic!("no list")
        };
        assert_eq!(answer[1], redis::Value::Array(Vec::new()), "stolen");
        assert_eq!(they_read(&stage).await, 0);
    }
    sql.batch_execute("ROLLBACK").await.unwrap();
    stage.job(&source, |_| true).await;
    stage.settled().await;
    assert_eq!(stage.crawler.lines(" processed ").len(), 1);
}

#[tokio::test]
async fn a07_a_group_that_redis_lost_is_made_again() {
    let stage = Stage::crawling().await;
    let (before, after) = (some_id(), some_id());
    stage.they_publish(&created(&before, 0)).await;
    stage.job(&before, |_| true).await;
    stage
        .command(&["XGROUP", "DESTROY", "source-events", GROUP])
        .await;
    stage.they_publish(&created(&after, 0)).await;
    stage.job(&after, |_| true).await;
    stage.settled().await;
}

#[tokio::test]
async fn a07_events_of_a_source_come_in_order_and_one_that_is_older_is_ignored() {
    let stage = Stage::crawling().await;
    let ids: Vec<_> = (0..20).map(|_| some_id()).collect();
    for id in &ids {
        stage.they_publish(&created(id, 0)).await;
    }
    for depth in 1..10 {
        for id in &ids {
            let current = json!({"current": {"max_depth": depth}});
            stage
                .they_publish(&event("SOURCE_UPDATED", id, depth, current))
                .await;
        }
    }
    let old = json!({"current": {"max_depth": 77, "name": "old"}});
    stage
        .they_publish(&event("SOURCE_UPDATED", &ids[0], 5, old))
        .await;
    stage
        .they_publish(&event("SOURCE_DELETED", &ids[1], 20, json!({})))
        .await;
    stage.they_publish(&created(&ids[1], 19)).await;
    stage.settled().await;
    for (n, id) in ids.iter().enumerate() {
        if n == 1 {
            stage.no_job(id).await;
        } else {
            let job = stage.job(id, |_| true).await;
            assert_eq!(
                (&job["max_depth"], &job["name"]),
                (&json!(9), &json!("Example"))
            );
        }
        let heard: Vec<_> = stage.crawler.lines(id);
        assert!(
            heard
                .iter()
                .take(10)
                .all(|line| line.contains("applied=Now")),
            "{heard:#?}"
        );
    }
    assert_eq!(stage.crawler.lines("applied=Stale").len(), 2);
}

#[tokio::test]
async fn a07_what_fails_stays_pending_is_retried_and_at_last_a_dead_letter() {
    let stage = Stage::crawling().await;
    let sql = stage.sql("crawler").await;
    let (mended, given_up) = (some_id(), some_id());
    sql.batch_execute("ALTER TABLE known_sources RENAME TO away")
        .await
        .unwrap();
    stage.they_publish(&created(&mended, 0)).await;
    stage.one_pending().await;
    sql.batch_execute("ALTER TABLE away RENAME TO known_sources")
        .await
        .unwrap();
    stage.job(&mended, |_| true).await;
    stage.settled().await;
    sql.batch_execute("ALTER TABLE known_sources RENAME TO away")
        .await
        .unwrap();
    stage.they_publish(&created(&given_up, 0)).await;
    let letters = dead_letters(&stage, 1).await;
    assert_eq!(
        (letters[0].attempts, &*letters[0].reason),
        (10, "max_attempts")
    );
    assert!(
        letters[0].error.contains("known_sources"),
        "{}",
        letters[0].error
    );
    stage.settled().await;
}

#[tokio::test]
async fn a07_the_group_is_as_described_and_its_members_stop_gracefully() {
    let mut stage = Stage::set().await;
    let early = some_id();
    stage.they_publish(&created(&early, 0)).await;
    stage
        .crawler
        .start_with(&[("EVENTS_RETRY_DELAY", "30s"), ("EVENTS_LEASE", "30s")]);
    // It was there before the group was.
    stage.job(&early, |_| true).await;
    let backend = group(&stage).await;
    let name = SubscriptionName::parse(GROUP).unwrap();
    let spec = backend.admin().spec(&name).await.unwrap();
    assert_eq!(spec.retry, RetryPolicy::fixed(10, Duration::from_secs(30)));
    assert_eq!((spec.lease, spec.ordered), (Duration::from_secs(30), true));
    backend.close().await.unwrap();
    let names: Vec<_> = consumers(&stage).await.into_keys().collect();
    let hex = |name: &String| {
        let digits = name.strip_prefix("crawler-").unwrap_or_default();
        digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit())
    };
    assert!(!names.is_empty() && names.iter().all(hex), "{names:?}");
    for _ in 0..50 {
        stage.they_publish(&created(&some_id(), 0)).await;
    }
    // Within the lease of 30 s nobody could take over what it left behind.
    stage.crawler.stop();
    stage.crawler.start();
    stage.settled().await;
    let stats = stage.crawler.get("/api/v1/jobs/stats").await;
    assert_eq!(
        (&stats["auto_managed"], &stats["processed_events"]),
        (&json!(51), &json!(51))
    );
}
