//! B6: what the three handlers make of events.

use serde_json::{Value, json};

use crate::stage::{PUBSUB, Service, Stage};

/// Type, title and text of everything that a user was told.
async fn told(service: &Service, user: &str, count: usize) -> Vec<[String; 3]> {
    let all = service
        .list(&format!("/users/{user}/notifications"), count)
        .await;
    let text = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
    assert!(all.iter().all(|one| one["link"] == "/chats/c-1"), "{all:?}");
    let all = all.iter();
    all.map(|one| ["type", "title", "text"].map(|name| text(one, name)))
        .collect()
}

async fn scene(service: &Service) {
    service.create("c-1").await;
    let text = json!({"text": "it leaks"});
    service.post("/chats/c-1/messages", "bob", text).await;
    let user = json!({"user_id": "kim"});
    service.put("/chats/c-1/assignee", "ada", user).await;
    let status = json!({"status": "in progress"});
    service.put("/chats/c-1/status", "kim", status).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b06_everyone_in_the_chat_but_the_sender_is_notified_once() {
    let stage = Stage::new().await;
    let service = stage.service(PUBSUB).await;
    scene(&service).await;
    let created = ["ChatCreated", "New chat", "Roof"];
    let posted = ["MessagePosted", "New message", "it leaks"];
    let assigned = ["TaskAssigned", "New task assigned", "kim"];
    let changed = ["StatusChanged", "Status changed", "in progress"];
    assert_eq!(
        told(&service, "eve", 4).await,
        [created, posted, assigned, changed]
    );
    assert_eq!(told(&service, "bob", 3).await, [created, assigned, changed]);
    assert_eq!(told(&service, "ada", 2).await, [posted, changed]);
    // Came in when the task became theirs.
    assert_eq!(told(&service, "kim", 1).await, [assigned]);
}

#[tokio::test(flavor = "multi_thread")]
async fn b06_unknown_types_are_skipped() {
    let stage = Stage::new().await;
    let service = stage.service(PUBSUB).await;
    service.create("c-1").await;
    let unknown = json!({
        "id": "u-1", "event_type": "ChatPainted", "aggregate_id": "c-1",
        "occurred_at": "2026-11-20T10:00:00Z", "metadata": {}, "payload": {"colour": "red"},
    });
    stage
        .redis(&["PUBLISH", "events.ChatPainted", &unknown.to_string()])
        .await;
    // One chat's events are handled in order: behind this one nothing is left of the other.
    service
        .put("/chats/c-1/status", "ada", json!({"status": "red"}))
        .await;
    let told = told(&service, "bob", 2).await;
    assert_eq!(
        told.iter().map(|one| &*one[0]).collect::<Vec<_>>(),
        ["ChatCreated", "StatusChanged"]
    );
    assert_eq!(service.get("/dead-letters").await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn b06_the_read_model_shows_the_chat() {
    let stage = Stage::new().await;
    let service = stage.service(PUBSUB).await;
    scene(&service).await;
    let chat = service
        .until("/chats/c-1", |chat| chat["status"] == "in progress")
        .await;
    let expected =
        json!({"title": "Roof", "status": "in progress", "assignee": "kim", "messages": 1});
    assert_eq!(chat, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn b06_tags_are_kept_or_change_the_task() {
    let stage = Stage::new().await;
    let service = stage.service(PUBSUB).await;
    service.create("c-1").await;
    let text = json!({"text": "#roof leaks #assign:kim #status:urgent"});
    service.post("/chats/c-1/messages", "bob", text).await;
    assert_eq!(service.list("/tags/roof", 1).await, ["c-1"]);
    let changed = |chat: &Value| chat["status"] == "urgent" && chat["assignee"] == "kim";
    service.until("/chats/c-1", changed).await;
    // As if bob had done it: he is not told.
    let told = told(&service, "ada", 3).await;
    let kinds: Vec<_> = told.iter().map(|one| &*one[0]).collect();
    assert_eq!(kinds, ["MessagePosted", "TaskAssigned", "StatusChanged"]);
    assert_eq!(
        service
            .get("/users/bob/notifications")
            .await
            .as_array()
            .unwrap()
            .len(),
        1
    );
}
