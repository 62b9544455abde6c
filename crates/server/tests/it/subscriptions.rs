//! `/v1/subscriptions`: the rules of creating, changing, deleting, pausing and moving.

use serde_json::{Value, json};

use crate::harness::{answer, problem, refused, start};

const PATH: &str = "/v1/subscriptions/s";

#[tokio::test]
async fn a_put_is_201_for_a_new_one_and_200_for_the_same_or_a_changed_one() {
    let server = start().await;
    let put = |body: Value| server.put(PATH).json(&body);
    let made = answer(put(json!({ "pattern": "a.*" })), 201).await;
    assert_eq!(made["name"], "s");
    assert_eq!(made["patterns"], json!(["a.*"]));
    assert_eq!(made["start"], "latest");
    assert_eq!(made["lease"], "30s");
    assert_eq!(made["ordered"], false);
    assert_eq!(made["dead_letter"], true);
    assert_eq!(made["paused"], false);
    let retry =
        json!({ "max_attempts": 5, "initial": "1s", "factor": 2.0, "max": "1m", "jitter": true });
    assert_eq!(made["retry"], retry);
    answer(put(json!({ "patterns": ["a.*"] })), 200).await;
    let changed = json!({
        "pattern": "a.*", "lease": "5s", "dead_letter": false, "retry": { "max_attempts": 2 }
    });
    let changed = answer(put(changed), 200).await;
    assert_eq!(changed["lease"], "5s");
    assert_eq!(changed["dead_letter"], false);
    assert_eq!(changed["retry"]["max_attempts"], 2);
    assert_eq!(server.read(PATH).await["lease"], "5s");
}

#[tokio::test]
async fn other_patterns_or_order_are_a_conflict_that_names_both() {
    let server = start().await;
    answer(server.put(PATH).json(&json!({ "pattern": "a.*" })), 201).await;
    let put = server.put(PATH).json(&json!({ "patterns": ["b.*", "c"] }));
    let conflict = problem(put.send().await.unwrap(), 409, "conflict").await;
    let detail = conflict["detail"].as_str().unwrap();
    assert!(detail.contains("a.*") && detail.contains("b.*"), "{detail}");
    let put = server
        .put(PATH)
        .json(&json!({ "pattern": "a.*", "ordered": true }));
    refused(put, 409, "conflict").await;
}

#[tokio::test]
async fn the_start_counts_at_creation_only() {
    let server = start().await;
    server.publish(json!({ "type": "a" })).await;
    let put = |start: &str| {
        server
            .put(PATH)
            .json(&json!({ "pattern": "a", "start": start }))
    };
    answer(put("latest"), 201).await;
    answer(put("earliest"), 200).await;
    let info = server.read(PATH).await;
    assert_eq!(info["counts"]["waiting"], 0);
}

#[tokio::test]
async fn a_subscription_starts_where_it_was_told() {
    let server = start().await;
    let first = server.publish(json!({ "type": "a" })).await;
    server.publish(json!({ "type": "a" })).await;
    let position = first["position"].as_str().unwrap();
    for (name, start, waiting) in [
        ("earliest", "earliest", 2),
        ("latest", "latest", 0),
        ("position", position, 1),
        ("ago", "1h", 2),
        ("time", "2000-01-01T00:00:00+02:00", 2),
    ] {
        let path = format!("/v1/subscriptions/{name}");
        let put = server
            .put(&path)
            .json(&json!({ "pattern": "*", "start": start }));
        let info = answer(put, 201).await;
        assert_eq!(info["counts"]["waiting"], waiting, "{start}");
        assert_eq!(
            info["patterns"],
            json!(["**"]),
            "the canonical form is shown"
        );
    }
}

#[tokio::test]
async fn every_violation_of_a_body_is_named() {
    let server = start().await;
    let body = json!({
        "pattern": "user*", "start": "soon", "ordered": "yes", "lease": "1ms", "on_dead": "stop",
        "retry": { "max_attempts": 0, "initial": 5, "factor": 0.5, "x": 1 }, "dead_letter": 1, "y": 1
    });
    let mut pointers = refused(server.put(PATH).json(&body), 422, "invalid").await;
    pointers.sort();
    let expected = [
        "/dead_letter",
        "/lease",
        "/on_dead",
        "/ordered",
        "/pattern",
        "/retry/factor",
        "/retry/initial",
        "/retry/max_attempts",
        "/retry/x",
        "/start",
        "/y",
    ];
    assert_eq!(pointers, expected);
    for (body, pointer) in [
        (json!({}), "/pattern"),
        (json!({ "patterns": [] }), "/patterns"),
        (json!({ "patterns": ["a", "b..c", 7] }), "/patterns/1"),
        (json!({ "pattern": "a", "patterns": ["a"] }), "/patterns"),
        (json!({ "patterns": vec!["a"; 17] }), "/patterns"),
    ] {
        let pointers = refused(server.put(PATH).json(&body), 422, "invalid").await;
        assert_eq!(pointers[0], pointer, "{body}");
    }
    let put = server
        .put("/v1/subscriptions/a%20b")
        .json(&json!({ "pattern": "a" }));
    assert_eq!(refused(put, 422, "invalid").await, ["/name"]);
    let put = server
        .put(PATH)
        .header("content-type", "text/plain")
        .body("{}");
    refused(put, 415, "unsupported_media_type").await;
}

#[tokio::test]
async fn a_patch_changes_the_patterns_from_now_on() {
    let server = start().await;
    server.subscribe("s", "a").await;
    server.publish(json!({ "type": "a", "id": "1" })).await;
    server.publish(json!({ "type": "b", "id": "2" })).await;
    let patch = server.patch(PATH).json(&json!({ "patterns": ["b", "c"] }));
    let patched = answer(patch, 200).await;
    assert_eq!(patched["patterns"], json!(["b", "c"]));
    server.publish(json!({ "type": "a", "id": "3" })).await;
    server.publish(json!({ "type": "b", "id": "4" })).await;
    let pulled = server.pull("s", 10).await;
    let ids: Vec<_> = pulled.iter().map(|d| d["event"]["id"].clone()).collect();
    assert_eq!(ids, ["1", "4"]);
    let other = server
        .patch("/v1/subscriptions/none")
        .json(&json!({ "pattern": "a" }));
    refused(other, 404, "not_found").await;
    let pointers = refused(
        server.patch(PATH).json(&json!({ "lease": "5s" })),
        422,
        "invalid",
    )
    .await;
    assert!(pointers.contains(&"/lease".to_owned()));
}

#[tokio::test]
async fn a_delete_needs_force_while_anything_is_unsettled_or_dead() {
    let server = start().await;
    server.publish(json!({ "type": "a" })).await;
    server.subscribe("s", "a").await;
    let refusal = problem(server.delete(PATH).send().await.unwrap(), 409, "conflict").await;
    let detail = refusal["detail"].as_str().unwrap();
    assert!(detail.contains('1'), "the counts: {detail}");
    let pulled = server.pull("s", 1).await;
    server.settle("s", "dead_letter", &pulled).await;
    refused(server.delete(PATH), 409, "conflict").await;
    refused(
        server.delete("/v1/subscriptions/s?force=maybe"),
        400,
        "invalid_query",
    )
    .await;
    answer(server.delete("/v1/subscriptions/s?force=true"), 204).await;
    refused(server.get(PATH), 404, "not_found").await;
    refused(server.delete(PATH), 404, "not_found").await;
    // A new one of the same name begins anew.
    server.subscribe("s", "a").await;
    assert_eq!(server.pull("s", 1).await.len(), 1);
}

#[tokio::test]
async fn a_settled_subscription_is_deleted_without_force() {
    let server = start().await;
    server.publish(json!({ "type": "a" })).await;
    server.subscribe("s", "a").await;
    let pulled = server.pull("s", 1).await;
    server.settle("s", "ack", &pulled).await;
    answer(server.delete(PATH), 204).await;
}

#[tokio::test]
async fn subscriptions_are_listed_by_name() {
    let server = start().await;
    for name in ["b", "c", "a"] {
        server.subscribe(name, "**").await;
    }
    let list = server.read("/v1/subscriptions").await;
    let list = list["subscriptions"].as_array().unwrap();
    let names: Vec<_> = list.iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_paused_subscription_hands_out_nothing_until_resumed() {
    let server = start().await;
    server.publish(json!({ "type": "a" })).await;
    server.subscribe("s", "a").await;
    let paused = answer(server.post("/v1/subscriptions/s/pause"), 200).await;
    assert_eq!(paused["paused"], true);
    let body = server.call("/v1/subscriptions/s/pull", json!({})).await;
    assert_eq!(body, json!({ "deliveries": [] }));
    let resumed = answer(server.post("/v1/subscriptions/s/resume"), 200).await;
    assert_eq!(resumed["paused"], false);
    assert_eq!(server.pull("s", 1).await.len(), 1);
    refused(
        server.post("/v1/subscriptions/none/pause"),
        404,
        "not_found",
    )
    .await;
}

#[tokio::test]
async fn a_seek_moves_and_makes_open_leases_late() {
    let server = start().await;
    let mut positions = Vec::new();
    for id in ["1", "2", "3"] {
        let stored = server.publish(json!({ "type": "a", "id": id })).await;
        positions.push(stored["position"].as_str().unwrap().to_owned());
    }
    server.subscribe("s", "a").await;
    let pulled = server.pull("s", 3).await;
    let seek = async |to: &str, dry_run: bool| {
        let body = json!({ "to": to, "dry_run": dry_run });
        server.call("/v1/subscriptions/s/seek", body).await
    };
    let dry = seek("earliest", true).await;
    assert_eq!(dry["from"], positions[2].as_str());
    assert_eq!(dry["events"], 3);
    let sought = seek("earliest", false).await;
    assert_eq!(sought, dry);
    let settled = server.settle("s", "ack", &pulled[..1]).await;
    assert_eq!(
        settled[0]["ok"], false,
        "open leases become late: {settled}"
    );
    for (to, events) in [
        ("latest", 0),
        (positions[0].as_str(), 2),
        ("event:2", 2),
        ("1h", 3),
        ("2100-01-01T00:00:00Z", 0),
        ("earliest", 3),
    ] {
        assert_eq!(seek(to, false).await["events"], events, "{to}");
    }
    let again = server.pull("s", 3).await;
    assert_eq!(again.len(), 3);
    for (body, pointer) in [(json!({}), "/to"), (json!({ "to": "there" }), "/to")] {
        let post = server.post("/v1/subscriptions/s/seek").json(&body);
        assert_eq!(refused(post, 422, "invalid").await, [pointer]);
    }
    let post = server
        .post("/v1/subscriptions/s/seek")
        .json(&json!({ "to": "event:none" }));
    refused(post, 404, "not_found").await;
}
