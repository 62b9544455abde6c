//! A5: an event is there if its change is, whatever Redis does.

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::stage::Stage;

#[tokio::test]
async fn a05_what_changes_while_redis_is_down_arrives_when_it_is_back() {
    let mut stage = Stage::running().await;
    let new = json!({"name": "n", "url": "http://127.0.0.1:9/", "priority": "low"});
    let before = stage.sources.post("/api/v1/sources", &new).await;
    stage.job(before["id"].as_str().unwrap(), |_| true).await;
    stage.redis.kill().unwrap();
    let during = stage.sources.post("/api/v1/sources", &new).await;
    let id = before["id"].as_str().unwrap();
    stage
        .sources
        .ask(Method::DELETE, &format!("/api/v1/sources/{id}"), None)
        .await;
    stage.sources.kill();
    stage.sources.start();
    stage.redis.restart().await.unwrap();
    stage.job(during["id"].as_str().unwrap(), |_| true).await;
    stage.no_job(id).await;
}

#[tokio::test]
async fn a05_a_change_that_does_not_commit_says_nothing() {
    let stage = Stage::running().await;
    let sql = stage.sql("source_manager").await;
    // The last thing that a commit does is to refuse.
    let refuse = "
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE 'no'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON sources DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.details->>'name' = 'refused') EXECUTE FUNCTION refuse();";
    sql.batch_execute(refuse).await.unwrap();
    let new = |name: &str| json!({"name": name, "url": "http://127.0.0.1:9/", "priority": "low"});
    let refused = new("refused");
    let refused = stage
        .sources
        .try_ask(Method::POST, "/api/v1/sources", Some(&refused))
        .await;
    assert_eq!(refused.unwrap().0, StatusCode::SERVICE_UNAVAILABLE);
    let kept = stage.sources.post("/api/v1/sources", &new("kept")).await;
    stage.job(kept["id"].as_str().unwrap(), |_| true).await;
    // The outbox is in order: what came before the kept one would be there.
    let events = stage.stream().await;
    assert_eq!(events.len(), 1, "{events:?}");
    let list = stage.sources.get("/api/v1/sources").await;
    assert_eq!(list["sources"].as_array().unwrap().len(), 1);
}
