//! B2: what stands on the channels, both ways, under either prefix.

use futures::StreamExt;
use serde_json::{Value, json};

use crate::stage::{PUBSUB, Stage, within};

#[tokio::test(flavor = "multi_thread")]
async fn b02_the_envelope_goes_out_on_the_channel_of_its_type_under_either_prefix() {
    let stage = Stage::new().await;
    for prefix in ["events.", "events:"] {
        let file = PUBSUB.replace("stream=events.", &format!("stream={prefix}"));
        let service = stage.service(&file).await;
        let client = redis::Client::open(stage.redis.url()).unwrap();
        let mut theirs = client.get_async_pubsub().await.unwrap();
        theirs.psubscribe("events*").await.unwrap();
        let chat = format!("chat-{prefix}1");
        service.create(&chat).await;
        let message = within(theirs.on_message().next()).await.unwrap();
        assert_eq!(message.get_channel_name(), format!("{prefix}ChatCreated"));
        let mut said: Value =
            serde_json::from_str(&message.get_payload::<String>().unwrap()).unwrap();
        let metadata = said["metadata"].take();
        let mut take = |name: &str| said[name].take().as_str().unwrap_or_default().to_owned();
        let (id, at) = (take("id"), take("occurred_at"));
        assert_eq!((id.len(), at.ends_with('Z')), (36, true), "{id} {at}");
        assert_eq!(
            said,
            json!({
                "id": null, "event_type": "ChatCreated", "aggregate_id": chat, "aggregate_type": "Chat",
                "occurred_at": null, "version": 1, "metadata": null,
                "payload": {"title": "Roof", "participants": ["bob", "eve"]},
            })
        );
        assert_eq!(metadata["user_id"], "ada");
        assert_eq!(metadata["ip_address"], "127.0.0.1");
        assert_eq!(metadata["timestamp"], at);
        assert!(service.stop().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn b02_what_a_handler_publishes_names_its_cause_and_the_user() {
    let stage = Stage::new().await;
    let service = stage.service(PUBSUB).await;
    let client = redis::Client::open(stage.redis.url()).unwrap();
    let mut theirs = client.get_async_pubsub().await.unwrap();
    theirs.subscribe("events.StatusChanged").await.unwrap();
    service.create("c-1").await;
    let text = json!({"text": "ready #status:done"});
    let cause = service.post("/chats/c-1/messages", "bob", text).await;
    let message = within(theirs.on_message().next()).await.unwrap();
    let said: Value = serde_json::from_str(&message.get_payload::<String>().unwrap()).unwrap();
    assert_eq!(said["metadata"]["causation_id"], cause);
    assert_eq!(said["metadata"]["correlation_id"], cause);
    assert_eq!(said["metadata"]["user_id"], "bob");
    assert_eq!(said["payload"], json!({"status": "done"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn b02_what_another_service_writes_is_read() {
    let stage = Stage::new().await;
    let service = stage.service(PUBSUB).await;
    let theirs = json!({
        "id": "0190a5e4-3f5b-7d2a-9c41-1f2e3d4c5b6a", "event_type": "ChatCreated",
        "aggregate_id": "chat-1", "aggregate_type": "Chat", "occurred_at": "2026-11-20T10:00:00Z",
        "version": 1, "metadata": {"user_id": "u-1"},
        "payload": {"title": "Größe", "participants": ["u-1", "u-2"]},
    });
    stage
        .redis(&["PUBLISH", "events.ChatCreated", &theirs.to_string()])
        .await;
    let told = service.list("/users/u-2/notifications", 1).await;
    assert_eq!(told[0]["text"], "Größe");
    assert_eq!(service.get("/users/u-1/notifications").await, json!([]));
}
