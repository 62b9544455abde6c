//! A8: entries that nobody understands hold up nothing.

use fanfare::core::dead_letter::DeadBody;
use serde_json::json;

use super::a07_group::dead_letters;
use super::stage::{Stage, created, event, some_id};

#[tokio::test]
async fn a08_malformed_entries_are_quarantined_and_unknown_types_acknowledged() {
    let stage = Stage::crawling().await;
    let raw = "{\"event_id\": \u{fffd} broken";
    stage
        .command(&["XADD", "source-events", "*", "event", raw])
        .await;
    stage
        .command(&["XADD", "source-events", "*", "other", "field"])
        .await;
    let mut no_uuid = created("not-a-uuid", 0);
    stage.they_publish(&no_uuid).await;
    no_uuid["source_id"] = some_id().into();
    no_uuid["event_id"] = "e-1".into();
    stage.they_publish(&no_uuid).await;
    stage
        .they_publish(&event("SOURCE_CREATED", &some_id(), 0, json!({"name": 7})))
        .await;
    let deep = json!({"current": {"max_depth": "deep"}});
    stage
        .they_publish(&event("SOURCE_UPDATED", &some_id(), 0, deep))
        .await;
    let unknown = event("SOURCE_ARCHIVED", &some_id(), 0, json!({}));
    stage.they_publish(&unknown).await;
    let good = some_id();
    stage.they_publish(&created(&good, 0)).await;
    stage.job(&good, |_| true).await;
    stage.settled().await;
    let warned = stage.crawler.heard("no route matches");
    assert!(
        warned.contains("WARN") && warned.contains("SOURCE_ARCHIVED"),
        "{warned}"
    );
    let letters = dead_letters(&stage, 6).await;
    assert_eq!(letters.len(), 6, "{letters:#?}");
    let bytes: Vec<_> = letters
        .iter()
        .filter_map(|letter| match &letter.body {
            DeadBody::Raw(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            DeadBody::Event(_) => None,
        })
        .collect();
    assert!(bytes.iter().any(|bytes| bytes.contains(raw)), "{bytes:?}");
    let rejected = letters.iter().filter(|letter| letter.reason == "rejected");
    assert_eq!(rejected.count(), 4);
}
