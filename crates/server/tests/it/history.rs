//! `GET /v1/events` and `GET /v1/events/{id}`.

use fanfare_server::ServerConfig;
use serde_json::{Value, json};

use crate::harness::{Running, answer, refused, start, start_on};

fn ids(page: &Value) -> Vec<String> {
    let events = page["events"].as_array().unwrap();
    events
        .iter()
        .map(|item| item["event"]["id"].as_str().unwrap().to_owned())
        .collect()
}

async fn with_events(types: &[&str]) -> Running {
    let server = start().await;
    for (index, event_type) in types.iter().enumerate() {
        server
            .publish(json!({ "type": event_type, "id": index.to_string(), "source": "/s" }))
            .await;
    }
    server
}

#[tokio::test]
async fn events_are_listed_oldest_first_with_position_and_recorded() {
    let server = with_events(&["a.b", "a.c", "b.c"]).await;
    let page = server.read("/v1/events").await;
    assert_eq!(ids(&page), ["0", "1", "2"]);
    assert_eq!(page["next"], Value::Null);
    let item = &page["events"][0];
    assert!(item["position"].is_string());
    assert!(item["recorded"].as_str().unwrap().ends_with('Z'));
    assert_eq!(
        ids(&server.read("/v1/events?order=desc").await),
        ["2", "1", "0"]
    );
}

#[tokio::test]
async fn every_filter_filters() {
    let server = with_events(&["a.b", "a.c", "b.c"]).await;
    server
        .publish(json!({ "type": "z", "id": "k", "key": "k 1", "source": "/other" }))
        .await;
    for (query, expected) in [
        ("type=a.*", &["0", "1"][..]),
        ("type=*.c", &["1", "2"]),
        ("type=a.b&type=b.**", &["0", "2"]),
        ("type=*", &["0", "1", "2", "k"]),
        ("key=k+1", &["k"]),
        ("source=/other", &["k"]),
        ("since=1h", &["0", "1", "2", "k"]),
        ("until=1h", &[]),
        (
            "since=2000-01-01T00:00:00%2B02:00&until=2100-01-01T00:00:00Z",
            &["0", "1", "2", "k"],
        ),
        ("status=completed", &["0", "1", "2", "k"]),
        ("status=failed", &[]),
        ("limit=2&order=desc", &["k", "2"]),
    ] {
        let page = server.read(&format!("/v1/events?{query}")).await;
        assert_eq!(ids(&page), expected, "{query}");
    }
}

#[tokio::test]
async fn a_page_holds_a_hundred_unless_told_otherwise() {
    let server = start().await;
    let batch = vec![json!({ "type": "a" }); 250];
    server.call("/v1/events", batch.into()).await;
    for (query, expected) in [("", 100), ("?limit=150", 150), ("?limit=1000", 250)] {
        let page = server.read(&format!("/v1/events{query}")).await;
        assert_eq!(page["events"].as_array().unwrap().len(), expected);
        assert_eq!(page["next"].is_null(), expected == 250);
    }
}

#[tokio::test]
async fn bad_queries_name_every_violation() {
    let server = start().await;
    let path = "/v1/events?type=a..b&limit=0&status=x&order=up&since=never&tpye=a";
    let mut pointers = refused(server.get(path), 400, "invalid_query").await;
    pointers.sort();
    let expected = ["?limit", "?order", "?since", "?status", "?tpye", "?type"];
    assert_eq!(pointers, expected);
    for query in ["limit=1001", "limit=1&limit=2", "source=a&source=b"] {
        refused(
            server.get(&format!("/v1/events?{query}")),
            400,
            "invalid_query",
        )
        .await;
    }
}

#[tokio::test]
async fn a_cursor_goes_on_where_the_page_ended_and_is_stable_under_appends() {
    let server = with_events(&["a"; 7]).await;
    let mut seen = Vec::new();
    let mut path = "/v1/events?limit=3&since=1h".to_owned();
    loop {
        let page = server.read(&path).await;
        seen.extend(ids(&page));
        server.publish(json!({ "type": "b" })).await;
        let Some(next) = page["next"].as_str() else {
            break;
        };
        // The limit is no part of the filter.
        path = format!("/v1/events?limit=2&since=1h&cursor={next}");
        if seen.len() >= 7 {
            break;
        }
    }
    assert_eq!(seen[..7], ["0", "1", "2", "3", "4", "5", "6"]);
}

#[tokio::test]
async fn a_descending_cursor_is_not_moved_by_appends() {
    let server = with_events(&["a"; 5]).await;
    let page = server.read("/v1/events?limit=2&order=desc").await;
    assert_eq!(ids(&page), ["4", "3"]);
    server.publish(json!({ "type": "b" })).await;
    let next = page["next"].as_str().unwrap();
    let page = server
        .read(&format!("/v1/events?limit=2&order=desc&cursor={next}"))
        .await;
    assert_eq!(ids(&page), ["2", "1"]);
}

#[tokio::test]
async fn a_cursor_of_another_filter_is_refused() {
    let server = with_events(&["a"; 3]).await;
    let page = server.read("/v1/events?limit=1&type=a").await;
    let next = page["next"].as_str().unwrap();
    for query in ["type=b", "type=a&order=desc", "type=a&since=1h", "key=a"] {
        let path = format!("/v1/events?{query}&cursor={next}");
        refused(server.get(&path), 400, "invalid_cursor").await;
    }
    for cursor in ["x", "", "MQ"] {
        let path = format!("/v1/events?cursor={cursor}");
        refused(server.get(&path), 400, "invalid_cursor").await;
    }
}

#[tokio::test]
async fn a_cursor_that_retention_passed_is_gone() {
    let backend = fanfare::backend("memory:?max_events=4").await.unwrap();
    let server = start_on(backend, ServerConfig::default()).await;
    for _ in 0..4 {
        server.publish(json!({ "type": "a" })).await;
    }
    let page = server.read("/v1/events?limit=1").await;
    let next = page["next"].as_str().unwrap().to_owned();
    for _ in 0..8 {
        server.publish(json!({ "type": "a" })).await;
    }
    refused(
        server.get(&format!("/v1/events?cursor={next}")),
        410,
        "gone",
    )
    .await;
}

#[tokio::test]
async fn an_event_is_shown_with_deliveries_and_status() {
    let server = with_events(&["a.b"]).await;
    let shown = server.read("/v1/events/0").await;
    assert_eq!(shown["status"], "completed");
    assert_eq!(shown["deliveries"], json!([]));
    server.subscribe("one", "a.*").await;
    server.subscribe("two", "a.b").await;
    assert_eq!(server.read("/v1/events/0").await["status"], "pending");
    let pulled = server.pull("one", 1).await;
    let shown = server.read("/v1/events/0").await;
    assert_eq!(shown["status"], "processing");
    assert_eq!(shown["deliveries"][0]["subscription"], "one");
    assert_eq!(shown["deliveries"][0]["state"], "in_flight");
    assert_eq!(shown["deliveries"][1]["state"], "waiting");
    server.settle("one", "dead_letter", &pulled).await;
    assert_eq!(server.read("/v1/events/0").await["status"], "failed");
    assert_eq!(
        server.read("/v1/events?status=failed").await["events"][0]["event"]["id"],
        "0"
    );
}

#[tokio::test]
async fn an_id_of_several_sources_must_be_narrowed() {
    let server = start().await;
    for source in ["/one", "/two"] {
        server
            .publish(json!({ "type": "a", "id": "same/id", "source": source }))
            .await;
    }
    refused(server.get("/v1/events/same%2Fid"), 409, "ambiguous").await;
    let shown = server.read("/v1/events/same%2Fid?source=/two").await;
    assert_eq!(shown["event"]["source"], "/two");
    refused(server.get("/v1/events/none"), 404, "not_found").await;
    answer(server.get("/v1/events/same%2Fid?source=/three"), 404).await;
}
