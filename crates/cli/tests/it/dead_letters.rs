//! `fanfare dead-letters`: from giving up to redriving and discarding.

use serde_json::{Value, json};

use crate::process::Server;

/// A subscription with as many dead letters as ids.
fn with_dead_letters(ids: &[&str]) -> Server {
    let server = Server::in_memory();
    server.run(&["subscriptions", "create", "s", "**"]).ok();
    for id in ids {
        server
            .run(&["publish", "a.b", "--id", id, "-d", "{\"n\": 1}"])
            .ok();
    }
    let pulled = server.post("/v1/subscriptions/s/pull", &json!({ "max": 100 }));
    let settlements: Vec<Value> = pulled["deliveries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| json!({ "delivery": d["delivery"], "outcome": "dead_letter", "reason": "no such \u{1b}[31mcard" }))
        .collect();
    assert_eq!(settlements.len(), ids.len());
    server.post(
        "/v1/subscriptions/s/settle",
        &json!({ "settlements": settlements }),
    );
    server
}

fn letters(server: &Server) -> Vec<Value> {
    server.run(&["dead-letters", "list", "--json"]).objects()
}

#[test]
fn they_are_listed_shown_and_redriven_once() {
    let server = with_dead_letters(&["1", "2", "3"]);
    let table = server.run(&["dead-letters", "list"]).ok();
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(!table.contains('\x1b'), "{table:?}");
    let id = letters(&server)[0]["id"].as_str().unwrap().to_owned();
    let shown = server.run(&["dead-letters", "show", &id]).ok();
    assert!(
        shown.contains("\"n\": 1") && !shown.contains('\x1b'),
        "{shown:?}"
    );

    let dry = ["dead-letters", "redrive", "--all", "--dry-run"];
    assert_eq!(server.run(&dry).ok(), "3 matched, 0 redriven\n");
    let one = ["dead-letters", "redrive", &id];
    assert_eq!(server.run(&one).ok(), "1 matched, 1 redriven\n");
    assert_eq!(server.run(&one).ok(), "0 matched, 0 redriven\n");
    let rest = [
        "dead-letters",
        "redrive",
        "--subscription",
        "s",
        "--rate",
        "100",
    ];
    assert_eq!(server.run(&rest).ok(), "2 matched, 2 redriven\n");
    assert_eq!(letters(&server), Vec::<Value>::new());
    let pulled = server.post("/v1/subscriptions/s/pull", &json!({ "max": 100 }));
    assert_eq!(pulled["deliveries"].as_array().unwrap().len(), 3);
    server.run(&["audit"]).ok();
}

#[test]
fn they_are_edited_and_discarded() {
    let server = with_dead_letters(&["1", "2"]);
    let id = letters(&server)[0]["id"].as_str().unwrap().to_owned();
    server
        .run(&["dead-letters", "edit", &id, "--data", "{\"n\": 2.50}"])
        .ok();
    let shown = server.run(&["dead-letters", "show", &id]).ok();
    assert!(
        shown.contains("2.50") && shown.contains("\"n\": 1"),
        "{shown}"
    );
    assert_eq!(
        server
            .run(&["dead-letters", "discard", "--type", "a.*"])
            .ok(),
        "2 matched, 2 discarded\n"
    );
    let audit = server.run(&["audit", "--json"]).objects();
    assert_eq!(audit[0]["subscriptions"][0]["dropped"], 2);
    assert!(
        server
            .run(&["dead-letters", "show", &id])
            .failed(1)
            .contains(&id)
    );
}
