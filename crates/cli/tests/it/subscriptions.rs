//! `fanfare subscriptions` and `fanfare audit`.

use serde_json::json;

use crate::process::Server;

#[test]
fn a_subscription_lives_from_create_to_delete() {
    let server = Server::in_memory();
    server.run(&["publish", "orders.placed", "--id", "1"]).ok();
    let create = [
        "subscriptions",
        "create",
        "billing",
        "orders.*",
        "--start",
        "earliest",
        "--max-attempts",
        "3",
        "--lease",
        "10s",
        "--no-jitter",
    ];
    assert_eq!(server.run(&create).ok(), "billing receives orders.*\n");
    server.run(&create).ok();
    let other = ["subscriptions", "create", "billing", "users.*"];
    let line = server.run(&other).failed(1);
    assert!(
        line.contains("orders.*") && line.contains("users.*"),
        "{line}"
    );

    let list = server.run(&["subscriptions", "list", "--json"]).objects();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0]["counts"]["waiting"], 1);
    assert_eq!(list[0]["retry"]["max_attempts"], 3);
    server.run(&["subscriptions", "pause", "billing"]).ok();
    let table = server.run(&["subscriptions", "list"]).ok();
    assert!(table.contains("paused"), "{table}");
    let pulled = server.post("/v1/subscriptions/billing/pull", &json!({ "max": 10 }));
    assert_eq!(pulled, json!({ "deliveries": [] }));
    server.run(&["subscriptions", "resume", "billing"]).ok();

    let dry = ["subscriptions", "seek", "billing", "latest", "--dry-run"];
    assert!(server.run(&dry).ok().contains("would move"));
    let line = server
        .run(&["subscriptions", "delete", "billing"])
        .failed(1);
    assert!(line.contains('1'), "{line}");
    server
        .run(&["subscriptions", "seek", "billing", "latest"])
        .ok();
    server.run(&["subscriptions", "delete", "billing"]).ok();
    assert_eq!(server.run(&["subscriptions", "list", "--json"]).ok(), "");
    assert!(
        server
            .run(&["subscriptions", "show", "billing"])
            .failed(1)
            .contains("billing")
    );
}

#[test]
fn patterns_change_from_now_on() {
    let server = Server::in_memory();
    server
        .run(&["subscriptions", "create", "s", "a.*", "b.*"])
        .ok();
    server
        .run(&["subscriptions", "set-patterns", "s", "c.**"])
        .ok();
    server.run(&["publish", "a.x"]).ok();
    server.run(&["publish", "c.x"]).ok();
    let audit = server.run(&["audit", "--json"]).objects();
    assert_eq!(audit[0]["subscriptions"][0]["waiting"], 1);
    let usage = server
        .run(&["subscriptions", "create", "s", "a*"])
        .failed(2);
    assert!(usage.contains("a*"), "{usage}");
}

#[test]
fn the_audit_balances_at_every_step() {
    let server = Server::in_memory();
    server.run(&["subscriptions", "create", "s", "**"]).ok();
    for id in ["1", "2", "3"] {
        server.run(&["publish", "a", "--id", id]).ok();
    }
    let pulled = server.post("/v1/subscriptions/s/pull", &json!({ "max": 2 }));
    let tokens: Vec<_> = pulled["deliveries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["delivery"].clone())
        .collect();
    let during = server.run(&["audit"]).ok();
    assert!(during.contains("conservation holds"), "{during}");
    let settle = json!({ "settlements": [
        { "delivery": tokens[0], "outcome": "ack" },
        { "delivery": tokens[1], "outcome": "drop" },
    ] });
    server.post("/v1/subscriptions/s/settle", &settle);
    let after = server.run(&["audit", "s", "--json"]).objects();
    let s = &after[0]["subscriptions"][0];
    assert_eq!(
        (&s["acknowledged"], &s["dropped"], &s["waiting"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert!(
        server
            .run(&["audit", "nobody"])
            .failed(1)
            .contains("nobody")
    );
}

#[test]
fn deliveries_are_pulled_and_settled_by_hand() {
    let server = Server::in_memory();
    server.run(&["subscriptions", "create", "s", "**"]).ok();
    let nothing = server.run(&["subscriptions", "pull", "s"]).ok();
    assert_eq!(nothing, "");
    for id in ["1", "2", "3"] {
        server.run(&["publish", "a", "--id", id]).ok();
    }
    let table = server.run(&["subscriptions", "pull", "s"]).ok();
    assert_eq!(table.lines().count(), 2, "{table}");
    let pull = ["subscriptions", "pull", "s", "--max", "10", "--json"];
    let pulled = server.run(&pull).objects();
    assert_eq!(pulled.len(), 2);
    let token = |at: usize| pulled[at]["delivery"].as_str().unwrap().to_owned();
    let ack = ["subscriptions", "settle", "s", "ack", &token(0)];
    assert!(server.run(&ack).ok().ends_with(" settled\n"));
    let again = server.run(&ack);
    assert_eq!((again.code, again.err.as_str()), (1, ""), "{again:?}");
    let fail = [
        "subscriptions",
        "settle",
        "s",
        "retry",
        &token(1),
        "--retry-after",
        "0s",
        "--reason",
        "no",
    ];
    server.run(&fail).ok();
    let retried = server
        .run(&[&pull[..], &["--wait", "10s"]].concat())
        .objects();
    assert_eq!(retried[0]["attempt"], 2);
}
