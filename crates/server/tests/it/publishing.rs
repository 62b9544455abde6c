//! `POST /v1/events` in its four forms, with every status it answers.

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::harness::{Running, answer, refused, start};

fn structured(id: &str) -> Value {
    json!({ "specversion": "1.0", "id": id, "source": "/s", "type": "a.b", "data": { "n": 1 } })
}

fn as_event(server: &Running, body: &Value) -> RequestBuilder {
    let media_type = "application/cloudevents+json; charset=utf-8";
    let post = server.post("/v1/events").header("content-type", media_type);
    post.body(body.to_string())
}

fn as_batch(server: &Running, body: impl Into<reqwest::Body>) -> RequestBuilder {
    let media_type = "application/cloudevents-batch+json";
    let post = server.post("/v1/events").header("content-type", media_type);
    post.body(body)
}

#[tokio::test]
async fn a_structured_event_is_stored_and_its_repeat_is_a_duplicate() {
    let server = start().await;
    let first = answer(as_event(&server, &structured("7")), 201).await;
    assert_eq!(
        first,
        json!({ "id": "7", "position": first["position"], "duplicate": false })
    );
    assert!(first["position"].as_str().unwrap().parse::<u128>().is_ok());
    let again = answer(as_event(&server, &structured("7")), 200).await;
    assert_eq!(again["duplicate"], true);
    assert_eq!(again["position"], first["position"]);
    let kept = server.read("/v1/events/7").await;
    assert_eq!(kept["event"]["data"], json!({ "n": 1 }));
    assert_eq!(kept["event"]["source"], "/s");
}

#[tokio::test]
async fn binary_mode_reads_attributes_from_headers() {
    let server = start().await;
    let binary = || {
        let post = server.post("/v1/events");
        post.header("ce-specversion", "1.0")
            .header("ce-id", "b%201")
            .header("ce-source", "/s")
            .header("ce-type", "a.b")
            .header("ce-partitionkey", "k")
            .header("content-type", "text/plain")
            .body("hello")
    };
    let stored = answer(binary(), 201).await;
    assert_eq!(stored["id"], "b 1");
    answer(binary(), 200).await;
    let kept = server.read("/v1/events/b%201").await;
    assert_eq!(kept["event"]["data"], "hello");
    assert_eq!(kept["event"]["datacontenttype"], "text/plain");
    assert_eq!(kept["event"]["partitionkey"], "k");
}

#[tokio::test]
async fn any_ce_header_means_binary_mode() {
    let server = start().await;
    let post = server.post("/v1/events").header("ce-type", "a.b");
    let post = post.json(&json!({ "type": "x.y" }));
    let pointers = refused(post, 422, "invalid").await;
    assert!(pointers.contains(&"/id".to_owned()), "{pointers:?}");
}

#[tokio::test]
async fn a_plain_event_gets_id_source_and_time() {
    let server = start().await;
    let stored = server
        .publish(json!({ "type": "a.b", "data": [1, 2], "key": "k" }))
        .await;
    let id = stored["id"].as_str().unwrap();
    assert_eq!(id.len(), 36);
    let kept = server.read(&format!("/v1/events/{id}")).await;
    assert_eq!(kept["event"]["source"], "/");
    assert_eq!(kept["event"]["partitionkey"], "k");
    assert!(kept["event"]["time"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn data_bytes_are_never_written_anew() {
    let server = start().await;
    let body = r#"{"type":"a.b","id":"raw","data":{ "z":1.0,  "a":12345678901234567890 }}"#;
    let post = server
        .post("/v1/events")
        .header("content-type", "application/json");
    answer(post.body(body), 201).await;
    let text = server
        .get("/v1/events")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        text.contains(r#""data":{ "z":1.0,  "a":12345678901234567890 }"#),
        "{text}"
    );
}

#[tokio::test]
async fn unknown_members_and_every_other_violation_are_named() {
    let server = start().await;
    let post = |body: Value| server.post("/v1/events").json(&body);
    let body = json!({ "type": "a..b", "dta": 1, "source": "", "id": "" });
    let mut pointers = refused(post(body), 422, "invalid").await;
    pointers.sort();
    assert_eq!(pointers, ["/dta", "/id", "/source", "/type"]);
    for (body, pointer) in [
        (json!({ "type": "" }), "/type"),
        (json!({ "type": "user*" }), "/type"),
        (json!({ "data": 1 }), "/type"),
        (json!({ "type": "a", "time": "yesterday" }), "/time"),
    ] {
        let pointers = refused(post(body.clone()), 422, "invalid").await;
        assert_eq!(pointers, [pointer], "{body}");
    }
}

#[tokio::test]
async fn two_ids_are_refused() {
    let server = start().await;
    let post = server
        .post("/v1/events")
        .header("content-type", "application/json");
    let pointers = refused(
        post.body(r#"{"type":"a","id":"1","id":"2"}"#),
        422,
        "invalid",
    )
    .await;
    assert_eq!(pointers, ["/id"]);
}

#[tokio::test]
async fn text_that_is_not_json_is_malformed() {
    let server = start().await;
    let deep = format!(
        r#"{{"type":"a","data":{}{}}}"#,
        "[".repeat(100),
        "]".repeat(100)
    );
    let bodies: [&[u8]; 5] = [b"{", b"", b"{\"type\":\"\xff\"}", b"{} x", deep.as_bytes()];
    for media_type in ["application/json", "application/cloudevents+json"] {
        for body in bodies {
            let post = server.post("/v1/events").header("content-type", media_type);
            refused(post.body(body.to_vec()), 400, "malformed").await;
        }
    }
    let limit = format!(
        r#"{{"type":"a","data":{}{}}}"#,
        "[".repeat(64),
        "]".repeat(64)
    );
    let post = server
        .post("/v1/events")
        .header("content-type", "application/json");
    answer(post.body(limit), 201).await;
}

#[tokio::test]
async fn other_media_types_are_refused() {
    let server = start().await;
    for media_type in [
        "text/plain",
        "application/xml",
        "application/cloudevents+avro",
    ] {
        let post = server.post("/v1/events").header("content-type", media_type);
        refused(post.body("{}"), 415, "unsupported_media_type").await;
    }
    refused(
        server.post("/v1/events").body("{}"),
        415,
        "unsupported_media_type",
    )
    .await;
}

#[tokio::test]
async fn content_encodings_are_refused() {
    let server = start().await;
    let post = server.post("/v1/events").header("content-encoding", "gzip");
    let post = post.json(&json!({ "type": "a" }));
    refused(post, 415, "unsupported_media_type").await;
}

#[tokio::test]
async fn a_batch_answers_per_event_in_order() {
    let server = start().await;
    let bad = json!({ "specversion": "1.0", "id": "2", "source": "/s", "type": "a..b" });
    let batch = json!([structured("1"), bad, structured("3"), structured("1")]);
    let body = answer(as_batch(&server, batch.to_string()), 200).await;
    let results = body["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    assert_eq!(results[0]["id"], "1");
    assert_eq!(results[0]["duplicate"], false);
    assert_eq!(results[1]["error"]["code"], "invalid");
    assert_eq!(results[1]["error"]["errors"][0]["pointer"], "/type");
    assert_eq!(results[2]["id"], "3");
    assert_eq!(results[3]["duplicate"], true);
    assert_eq!(results[3]["position"], results[0]["position"]);
}

#[tokio::test]
async fn a_batch_is_422_only_if_nothing_was_stored() {
    let server = start().await;
    let bad = json!([{ "specversion": "1.0", "id": "2", "source": "/s" }, 7]);
    let post = as_batch(&server, bad.to_string());
    let body = answer(post, 422).await;
    assert_eq!(body["code"], "nothing_stored");
    assert_eq!(body["results"].as_array().unwrap().len(), 2);
    assert_eq!(
        answer(as_batch(&server, "[]"), 200).await,
        json!({ "results": [] })
    );
    answer(as_batch(&server, json!([structured("1")]).to_string()), 200).await;
    // A duplicate is no failure.
    answer(as_batch(&server, json!([structured("1")]).to_string()), 200).await;
    refused(as_batch(&server, "{}"), 422, "invalid").await;
}

#[tokio::test]
async fn a_plain_array_is_a_batch() {
    let server = start().await;
    let body = json!([{ "type": "a.b" }, { "type": "" }]);
    let body = answer(server.post("/v1/events").json(&body), 200).await;
    assert!(body["results"][0]["id"].is_string());
    assert_eq!(body["results"][1]["error"]["status"], 422);
}

#[tokio::test]
async fn an_idempotency_key_becomes_the_id_of_events_that_have_none() {
    let server = start().await;
    let post = |key: &str, body: Value| {
        let post = server.post("/v1/events").header("idempotency-key", key);
        post.json(&body)
    };
    let first = answer(post("order-7", json!({ "type": "a.b" })), 201).await;
    let again = answer(post("\"order-7\"", json!({ "type": "a.b" })), 200).await;
    assert_eq!(first["id"], again["id"]);
    assert_eq!(&first["id"].as_str().unwrap()[14..15], "5", "a UUIDv5");
    answer(post("order-8", json!({ "type": "a.b" })), 201).await;
    let own = answer(post("order-7", json!({ "type": "a.b", "id": "own" })), 201).await;
    assert_eq!(own["id"], "own");
    let batch = json!([{ "type": "a.b" }, { "type": "a.b" }]);
    let one = answer(post("batch", batch.clone()), 200).await;
    let two = answer(post("batch", batch), 200).await;
    assert_ne!(one["results"][0]["id"], one["results"][1]["id"]);
    assert_eq!(one["results"][1]["id"], two["results"][1]["id"]);
    assert_eq!(two["results"][1]["duplicate"], true);
    refused(post("", json!({ "type": "a.b" })), 400, "malformed").await;
    refused(
        post(&"k".repeat(256), json!({ "type": "a.b" })),
        400,
        "malformed",
    )
    .await;
}

#[tokio::test]
async fn an_idempotency_key_stands_for_a_missing_id_in_structured_and_batch_mode() {
    let server = start().await;
    let event = json!({ "specversion": "1.0", "source": "/s", "type": "a.b" });
    let keyed = |post: RequestBuilder| post.header("idempotency-key", "k");
    let first = answer(keyed(as_event(&server, &event)), 201).await;
    let again = answer(keyed(as_event(&server, &event)), 200).await;
    assert_eq!(first["id"], again["id"]);
    let batch = json!([event, event]).to_string();
    let body = answer(keyed(as_batch(&server, batch)), 200).await;
    assert_eq!(body["results"][0]["id"], first["id"], "the same place");
    assert_eq!(body["results"][1]["duplicate"], false);
    assert_eq!(
        refused(as_event(&server, &event), 422, "invalid").await,
        ["/id"]
    );
}

#[tokio::test]
async fn an_idempotency_key_stands_for_a_missing_id_in_binary_mode() {
    let server = start().await;
    let binary = || {
        let post = server.post("/v1/events").header("ce-specversion", "1.0");
        let post = post.header("ce-source", "/s").header("ce-type", "a.b");
        post.header("idempotency-key", "k").body("")
    };
    let first = answer(binary(), 201).await;
    let again = answer(binary(), 200).await;
    assert_eq!(first["id"], again["id"]);
}
