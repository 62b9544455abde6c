//! B3 to B5: failures stay where they happen, are tried three times, and can be looked at and
//! mended.

use std::time::Duration;

use fanfare::core::timestamp::Timestamp;
use notifications::handlers;
use serde_json::{Value, json};

use crate::stage::{PUBSUB, Service, Stage};

/// Posts to a chat that nobody has created: two of the three handlers cannot do anything with that.
async fn fail(service: &Service, text: &str) -> String {
    let body = json!({ "text": text });
    service.post("/chats/nowhere/messages", "ada", body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn b03_what_fails_one_handler_reaches_the_others() {
    let stage = Stage::new().await;
    let service = stage.service(PUBSUB).await;
    fail(&service, "#urgent").await;
    service.list("/tags/urgent", 1).await;
    let letters = service.list("/dead-letters", 2).await;
    let mut failed: Vec<_> = letters
        .iter()
        .map(|one| one["handler"].as_str().unwrap())
        .collect();
    failed.sort_unstable();
    assert_eq!(failed, ["notification", "projection"]);
    // Other chats go on all the same.
    service.create("c-1").await;
    service.list("/users/bob/notifications", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b04_there_are_three_attempts_in_total_100_ms_apart_and_doubling_to_5_s() {
    let policy = handlers::retry();
    assert_eq!((policy.max_attempts, policy.jitter), (3, false));
    let many = fanfare::prelude::RetryPolicy {
        max_attempts: 10,
        ..policy
    };
    let delays = (1..10).map(|attempt| many.delay_after(attempt, 0.5).unwrap().as_millis());
    let expected = [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000];
    assert!(delays.eq(expected));

    let stage = Stage::new().await;
    let service = stage.service(PUBSUB).await;
    fail(&service, "nobody is here").await;
    service.list("/dead-letters", 2).await;
    for item in items(&stage).await {
        assert_eq!(item["attempts"], 3);
        let time = |name: &str| item[name].as_str().unwrap().parse::<Timestamp>().unwrap();
        let spent = time("timestamp").since(time("first_failure"));
        assert!(spent >= Duration::from_millis(300), "{spent:?}");
    }
}

/// The list in Redis, as anybody reads it.
async fn items(stage: &Stage) -> Vec<Value> {
    let listed = stage.redis(&["LRANGE", "dlq:events", "0", "-1"]).await;
    let items: Vec<String> = redis::from_redis_value(listed).unwrap();
    items
        .iter()
        .map(|item| serde_json::from_str(item).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn b05_dead_letters_are_read_newest_first_and_redriven() {
    let stage = Stage::new().await;
    let service = stage.service(PUBSUB).await;
    let mut events = Vec::new();
    for n in 1..=3 {
        events.push(fail(&service, &format!("message {n}")).await);
        service.list("/dead-letters", 2 * n).await;
    }
    events.reverse();

    let items = items(&stage).await;
    let of_list: Vec<_> = items
        .iter()
        .step_by(2)
        .map(|item| &item["event"]["id"])
        .collect();
    assert_eq!(of_list, events.iter().collect::<Vec<_>>());
    for item in &items {
        let text = |name: &str| item[name].as_str().unwrap();
        assert_eq!(item["event"]["event_type"], "MessagePosted");
        assert_eq!(item["event"]["aggregate_id"], "nowhere");
        assert!(text("error").ends_with("`nowhere` yet"), "{item}");
        assert!(text("timestamp").parse::<Timestamp>().is_ok());
        assert!(["notification", "projection"].contains(&text("handler")));
        assert!(!text("id").is_empty());
        assert_eq!(item["attempts"], 3);
    }
    let newest = service.get("/dead-letters?limit=2").await;
    let newest = newest.as_array().unwrap();
    assert!(
        newest
            .iter()
            .all(|letter| letter["event"]["id"] == events[0])
    );
    assert_eq!(newest.len(), 2);

    service.create("nowhere").await;
    service
        .until("/chats/nowhere", |chat| chat["title"] == "Roof")
        .await;
    service.list("/users/bob/notifications", 1).await;
    let one = format!(
        "/dead-letters/redrive?id={}",
        newest[0]["id"].as_str().unwrap()
    );
    assert_eq!(
        redrive(&service, &one).await,
        json!({"matched": 1, "done": 1})
    );
    service
        .until("/dead-letters", |left| left.as_array().unwrap().len() == 5)
        .await;
    assert_eq!(redrive(&service, "/dead-letters/redrive").await["done"], 5);
    assert_eq!(redrive(&service, "/dead-letters/redrive").await["done"], 0);
    service
        .until("/chats/nowhere", |chat| chat["messages"] == 3)
        .await;
    let told = service.list("/users/bob/notifications", 4).await;
    assert_eq!(told.len(), 4);
    assert_eq!(service.get("/dead-letters").await, json!([]));
}

async fn redrive(service: &Service, path: &str) -> Value {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http.post(format!("{}{path}", service.url)).send().await;
    answer.unwrap().json().await.unwrap()
}
