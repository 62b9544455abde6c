//! Jobs agree with sources whatever happens meanwhile, and reconciliation finds nothing to repair.
//! `JOB_LIFECYCLE_KILLS` and `JOB_LIFECYCLE_SOURCES` make it longer or larger.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fanfare::core::clock::Clock;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::stage::{Service, Stage, eventually};

fn times(variable: &str, default: u64) -> u64 {
    let set = std::env::var(variable).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A splitmix64 generator: the same choices every time.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// The most sources that one client makes.
const SOURCES: usize = 60;

/// What one client does to sources of its own; answers may be lost, so it asks what there is.
async fn change(url: &str, dice: &mut Dice, mine: &mut Vec<String>) {
    let http = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5));
    let http = http.build().unwrap();
    let sources = format!("{url}/api/v1/sources");
    let one = |mine: &[String], dice: &mut Dice| {
        let at = dice.below(mine.len().max(1) as u64);
        mine.get(usize::try_from(at).unwrap())
            .map(|id| format!("{sources}/{id}"))
    };
    let (method, url, body) = match (dice.below(10), one(mine, dice)) {
        (0..3, one) if mine.len() < SOURCES || one.is_none() => {
            let enabled = dice.below(3) > 0;
            let new = json!({"name": "n", "url": "http://127.0.0.1:9/", "priority": "low", "enabled": enabled});
            (Method::POST, sources, new)
        }
        (0..6, Some(one)) => (
            Method::PUT,
            one,
            json!({"max_depth": dice.below(8), "enabled": dice.below(2) == 0}),
        ),
        (6, Some(one)) => (Method::DELETE, one, Value::Null),
        (7, Some(one)) => (Method::POST, format!("{one}/disable"), Value::Null),
        (_, Some(one)) => (Method::POST, format!("{one}/enable"), Value::Null),
        (_, None) => return,
    };
    let mut request = http.request(method, url);
    if !body.is_null() {
        request = request.json(&body);
    }
    let Ok(answer) = request.send().await else {
        return;
    };
    if let Ok(Value::Object(made)) = answer.json().await
        && let Some(Value::String(id)) = made.get("id")
        && !mine.contains(id)
    {
        mine.push(id.clone());
    }
}

/// Every source, and the status that its job should have.
async fn wanted(stage: &Stage) -> BTreeMap<String, Value> {
    let page = stage.sources.get("/api/v1/sources").await;
    assert_eq!(page["next"], Value::Null, "one page is enough");
    let sources = page["sources"].as_array().unwrap();
    sources
        .iter()
        .map(|source| (source["id"].as_str().unwrap().to_owned(), source.clone()))
        .collect()
}

/// Waits until the jobs are what the sources ask for.
async fn agree(stage: &Stage) {
    let sources = wanted(stage).await;
    let agrees = async || {
        let jobs = stage.crawler.get("/api/v1/jobs").await;
        let jobs = jobs.as_array().unwrap();
        let mut by_source = BTreeMap::new();
        for job in jobs {
            let source = job["source_id"].as_str().unwrap();
            assert!(
                by_source.insert(source, job).is_none(),
                "two jobs for {source}"
            );
        }
        let fits = |(id, source): (&String, &Value)| match by_source.get(id.as_str()) {
            None => source["enabled"] == false,
            Some(job) => {
                (job["status"] == "active") == (source["enabled"] == true)
                    && job["max_depth"] == source["max_depth"]
                    && job["rate_limit"] == source["rate_limit"]
            }
        };
        let none_left = by_source.keys().all(|id| sources.contains_key(*id));
        (none_left && sources.iter().all(fits)).then_some(())
    };
    eventually(agrees).await;
    stage.settled().await;
    let repairs = stage.crawler.post("/api/v1/reconcile", &json!({})).await;
    assert_eq!(
        repairs,
        json!({"missing": 0, "orphaned": 0, "differing": 0})
    );
    let dead = super::a07_group::dead_letters(stage, 0).await;
    assert!(dead.is_empty(), "{dead:#?}");
    let (events, sources) = (stage.stream().await.len(), sources.len());
    println!("{events} entries in the stream, {sources} sources left, jobs as they ask for");
}

/// The whole day of so many sources, all at the same time.
#[tokio::test]
async fn a11_three_hundred_sources_change_at_once_and_jobs_agree() {
    let stage = Arc::new(Stage::running().await);
    let mut clients = JoinSet::new();
    for n in 0..times("JOB_LIFECYCLE_SOURCES", 300) {
        let stage = stage.clone();
        clients.spawn(async move {
            let new =
                json!({"name": format!("{n}"), "url": "http://127.0.0.1:9/", "priority": "low"});
            let source = stage.sources.post("/api/v1/sources", &new).await;
            let path = format!("/api/v1/sources/{}", source["id"].as_str().unwrap());
            let deeper = json!({"max_depth": n % 9, "rate_limit": format!("{}/s", n % 30 + 1)});
            stage.sources.ask(Method::PUT, &path, Some(&deeper)).await;
            stage
                .sources
                .post(&format!("{path}/disable"), &json!({}))
                .await;
            match n % 3 {
                0 => stage.sources.ask(Method::DELETE, &path, None).await,
                1 => {
                    stage
                        .sources
                        .post(&format!("{path}/enable"), &json!({}))
                        .await
                }
                _ => Value::Null,
            };
        });
    }
    clients.join_all().await;
    agree(&stage).await;
}

/// Starts it until it stays: the database may be away.
async fn bring_up(service: &mut Service) {
    eventually(async || {
        if service.is_gone() {
            service.spawn(&[]);
        }
        service
            .try_ask(Method::GET, "/metrics", None)
            .await
            .map(drop)
    })
    .await;
}

#[tokio::test]
async fn a13_services_and_servers_are_killed_at_random_and_nothing_is_lost() {
    let kills = times("JOB_LIFECYCLE_KILLS", 5);
    let mut stage = Stage::running().await;
    let clock = Clock::system();
    let mut dice = Dice(kills);
    let url = stage.sources.url();
    let mut clients = JoinSet::new();
    let (ending, ended) = tokio::sync::watch::channel(false);
    for seed in 0..4 {
        let (url, ended) = (url.clone(), ended.clone());
        clients.spawn(async move {
            let (mut dice, mut mine, clock) = (Dice(seed), Vec::new(), Clock::system());
            while !*ended.borrow() {
                change(&url, &mut dice, &mut mine).await;
                clock.sleep(Duration::from_millis(20)).await;
            }
        });
    }
    for n in 0..kills {
        clock
            .sleep(Duration::from_millis(100 + dice.below(400)))
            .await;
        match dice.below(2) {
            0 => stage.sources.kill(),
            _ => stage.crawler.kill(),
        }
        if n % 5 == 2 {
            stage.redis.restart().await.unwrap();
        }
        if n % 5 == 4 {
            stage.postgres.restart().await.unwrap();
        }
        bring_up(&mut stage.sources).await;
        bring_up(&mut stage.crawler).await;
    }
    ending.send_replace(true);
    clients.join_all().await;
    agree(&stage).await;
    println!(
        "{kills} kills of services, {} of Redis, {} of PostgreSQL",
        (kills + 2) / 5,
        kills / 5
    );
}
