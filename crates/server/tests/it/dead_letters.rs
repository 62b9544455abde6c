//! `/v1/dead-letters`: list, show, mend, give back, discard.

use serde_json::{Value, json};

use crate::harness::{Running, answer, refused, start};

const REDRIVE: &str = "/v1/dead-letters/redrive";
const DISCARD: &str = "/v1/dead-letters/discard";

/// A server where the events `1` to `n` of type `a.x` are dead in the subscription `s`.
async fn with_dead(n: usize) -> Running {
    let server = start().await;
    server.subscribe("s", "a.*").await;
    for id in 1..=n {
        let event = json!({ "type": "a.x", "id": id.to_string(), "data": { "n": id } });
        server.publish(event).await;
    }
    let pulled = server.pull("s", n).await;
    server.settle("s", "dead_letter", &pulled).await;
    server
}

async fn letters(server: &Running, query: &str) -> Vec<Value> {
    let page = server.read(&format!("/v1/dead-letters?{query}")).await;
    page["dead_letters"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_dead_letter_shows_everything_needed_to_understand_it() {
    let server = with_dead(1).await;
    let all = letters(&server, "").await;
    let letter = &all[0];
    assert_eq!(letter["subscription"], "s");
    assert_eq!(letter["event"]["id"], "1");
    assert_eq!(letter["reason"], "rejected");
    assert_eq!(letter["attempts"], 1);
    assert_eq!(letter["fingerprint"].as_str().unwrap().len(), 16);
    for time in ["first_failure", "last_failure"] {
        assert!(letter[time].as_str().unwrap().ends_with('Z'));
    }
    let id = letter["id"].as_str().unwrap();
    assert_eq!(
        server.read(&format!("/v1/dead-letters/{id}")).await,
        *letter
    );
    refused(server.get("/v1/dead-letters/none"), 404, "not_found").await;
}

#[tokio::test]
async fn dead_letters_are_filtered_and_paged() {
    let server = with_dead(5).await;
    let print = letters(&server, "").await[0]["fingerprint"]
        .as_str()
        .unwrap()
        .to_owned();
    for (query, expected) in [
        ("subscription=s".to_owned(), 5),
        ("subscription=t".to_owned(), 0),
        ("type=a.*".to_owned(), 5),
        ("type=b".to_owned(), 0),
        ("reason=rejected".to_owned(), 5),
        ("reason=max_attempts".to_owned(), 0),
        (format!("fingerprint={print}"), 5),
        ("since=1h".to_owned(), 5),
        ("until=1h".to_owned(), 0),
        ("limit=2".to_owned(), 2),
    ] {
        assert_eq!(letters(&server, &query).await.len(), expected, "{query}");
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/dead-letters?type=a.*&limit=2{cursor}");
        let page = server.read(&path).await;
        for letter in page["dead_letters"].as_array().unwrap() {
            seen.push(letter["event"]["id"].as_str().unwrap().to_owned());
        }
        let Some(next) = page["next"].as_str() else {
            break;
        };
        let other = format!("/v1/dead-letters?type=b&cursor={next}");
        refused(server.get(&other), 400, "invalid_cursor").await;
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, ["1", "2", "3", "4", "5"]);
    refused(server.get("/v1/dead-letters?x=1"), 400, "invalid_query").await;
}

#[tokio::test]
async fn a_redrive_without_filter_or_ids_is_refused() {
    let server = with_dead(1).await;
    for path in [REDRIVE, DISCARD] {
        for (body, pointer) in [
            (json!({}), "/filter"),
            (json!({ "filter": null }), "/filter"),
            (json!({ "filter": {}, "ids": [] }), "/ids"),
            (json!({ "filter": { "typ": "a" } }), "/filter/typ"),
            (json!({ "filter": [] }), "/filter"),
            (json!({ "ids": [7] }), "/ids/0"),
        ] {
            let pointers = refused(server.post(path).json(&body), 422, "invalid").await;
            assert_eq!(pointers, [pointer], "{path} {body}");
        }
    }
    let body = json!({ "filter": {}, "rate": 0 });
    assert_eq!(
        refused(server.post(REDRIVE).json(&body), 422, "invalid").await,
        ["/rate"]
    );
    assert_eq!(letters(&server, "").await.len(), 1);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let server = with_dead(3).await;
    let all = json!({ "filter": {}, "dry_run": true });
    let redriven = server.call(REDRIVE, all.clone()).await;
    assert_eq!(redriven, json!({ "matched": 3, "redriven": 0 }));
    let discarded = server.call(DISCARD, all).await;
    assert_eq!(discarded, json!({ "matched": 3, "discarded": 0 }));
    assert_eq!(letters(&server, "").await.len(), 3);
}

#[tokio::test]
async fn redriven_letters_come_back_once_as_fresh_deliveries() {
    let server = with_dead(3).await;
    let first = letters(&server, "").await[0]["id"].clone();
    let one = json!({ "ids": [first, "none"] });
    let redriven = server.call(REDRIVE, one.clone()).await;
    assert_eq!(redriven["redriven"], 1);
    assert_eq!(
        server.call(REDRIVE, one).await["redriven"],
        0,
        "a button pressed twice"
    );
    let limited = json!({ "filter": { "subscription": "s" }, "rate": 1000, "limit": 1 });
    assert_eq!(server.call(REDRIVE, limited).await["redriven"], 1);
    let rest = server.call(REDRIVE, json!({ "filter": {} })).await;
    assert_eq!(rest, json!({ "matched": 1, "redriven": 1 }));
    let mut pulled = server.pull("s", 10).await;
    while pulled.len() < 3 {
        pulled.extend(server.pull("s", 10).await);
    }
    assert!(pulled.iter().all(|d| d["attempt"] == 1));
    server.settle("s", "ack", &pulled).await;
    assert_eq!(server.read("/v1/audit").await["ok"], true);
}

#[tokio::test]
async fn discarded_letters_are_gone_for_good() {
    let server = with_dead(3).await;
    let filter = json!({ "filter": { "type": "a.x", "since": "1h" } });
    let discarded = server.call(DISCARD, filter).await;
    assert_eq!(discarded, json!({ "matched": 3, "discarded": 3 }));
    assert!(letters(&server, "").await.is_empty());
    let counts = server.read("/v1/subscriptions/s").await["counts"].clone();
    assert_eq!(counts["dropped"], 3);
    assert_eq!(server.read("/v1/audit").await["ok"], true);
}

#[tokio::test]
async fn replaced_data_keep_the_original_beside_them() {
    let server = with_dead(1).await;
    let id = letters(&server, "").await[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let path = format!("/v1/dead-letters/{id}");
    for n in [2, 3] {
        let put = server.put(&path).json(&json!({ "data": { "n": n } }));
        let letter = answer(put, 200).await;
        assert_eq!(letter["event"]["data"], json!({ "n": n }));
        assert_eq!(
            letter["original"],
            json!({ "data": { "n": 1 } }),
            "the first original"
        );
    }
    server.call(REDRIVE, json!({ "filter": {} })).await;
    assert_eq!(
        server.pull("s", 1).await[0]["event"]["data"],
        json!({ "n": 3 })
    );
    for body in [json!({}), json!({ "data": 1, "data_base64": "AA==" })] {
        assert_eq!(
            refused(server.put(&path).json(&body), 422, "invalid").await,
            ["/data"]
        );
    }
    let put = server.put(&path).json(&json!({ "data_base64": "?" }));
    assert_eq!(refused(put, 422, "invalid").await, ["/data_base64"]);
    let put = server
        .put("/v1/dead-letters/none")
        .json(&json!({ "data": 1 }));
    refused(put, 404, "not_found").await;
}
