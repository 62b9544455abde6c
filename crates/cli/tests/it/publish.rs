//! `fanfare publish`, and how commands end.

use serde_json::json;

use crate::process::{Server, fanfare, run};

#[test]
fn an_event_is_stored_once_and_shown_as_it_was() {
    let server = Server::in_memory();
    let args = [
        "publish",
        "orders.placed",
        "--data",
        r#"{"total": 12.50}"#,
        "--key",
        "7",
        "--id",
        "order 7/ü",
        "--extension",
        "userid=ada",
    ];
    let first = server.run(&args).ok();
    assert!(
        first.starts_with("stored order 7/ü at position "),
        "{first}"
    );
    let second = server.run(&args).ok();
    assert!(second.starts_with("duplicate"), "{second}");
    let shown = server.run(&["events", "show", "order 7/ü"]).ok();
    for text in ["orders.placed", "userid", "ada", "\"total\": 12.50"] {
        assert!(shown.contains(text), "{text} in {shown}");
    }
    let objects = server.run(&["events", "list", "--json"]).objects();
    assert_eq!(objects.len(), 1);
    assert_eq!(objects[0]["event"]["data"], json!({ "total": 12.5 }));
}

#[test]
fn data_come_from_a_file_or_standard_input() {
    let server = Server::in_memory();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("data.json");
    std::fs::write(&file, "[1, 2]").unwrap();
    let from_file = format!("@{}", file.display());
    server
        .run(&["publish", "a", "-d", &from_file, "--id", "1"])
        .ok();
    server
        .run_with_input(&["publish", "a", "-d", "-", "--id", "2"], "\"two\"")
        .ok();
    let text = [
        "publish",
        "a",
        "-d",
        "three",
        "--content-type",
        "text/plain",
    ];
    server.run(&text).ok();
    let objects = server.run(&["events", "list", "--json"]).objects();
    let data: Vec<_> = objects.iter().map(|o| o["event"]["data"].clone()).collect();
    assert_eq!(data, [json!([1, 2]), json!("two"), json!("three")]);
}

#[test]
fn what_is_wrong_with_the_command_line_is_a_usage_failure() {
    for (args, says) in [
        (vec!["publish", "a..b"], "empty segment"),
        (vec!["publish", "user*"], "user*"),
        (vec!["publish", ""], "empty"),
        (vec!["publish", "a", "-d", "{oops"], "not JSON"),
        (vec!["publish", "a", "--time", "yesterday"], "RFC 3339"),
        (vec!["publish", "a", "-d", "@/nowhere"], "cannot read"),
        (vec!["--server", "ftp://x", "audit"], "http://"),
        (vec!["dead-letters", "redrive"], "--all"),
    ] {
        let line = run(fanfare(&args)).failed(2);
        assert!(line.contains(says), "{args:?}: {line}");
    }
    assert_eq!(run(fanfare(&["publsh"])).code, 2);
    assert_eq!(run(fanfare(&[])).code, 2);
    assert_eq!(run(fanfare(&["--help"])).code, 0);
}

#[test]
fn an_unreachable_server_is_a_failure_of_its_own() {
    for args in [
        vec!["publish", "a"],
        vec!["events", "list"],
        vec!["subscriptions", "list"],
        vec!["dead-letters", "list"],
        vec!["audit"],
        vec!["tail"],
    ] {
        let mut command = fanfare(&args);
        // Nothing listens on the port that discards.
        command.env("FANFARE_SERVER", "http://127.0.0.1:9");
        let line = run(command).failed(3);
        assert!(line.contains("fanfare serve"), "{line}");
    }
}

#[test]
fn data_above_the_limit_are_refused_in_one_line() {
    let server = Server::in_memory();
    let data = format!("\"{}\"", "x".repeat(300 * 1024));
    let refused = server.run_with_input(&["publish", "a", "-d", "-"], &data);
    let line = refused.failed(1);
    assert!(line.len() < 500, "{line}");
    assert_eq!(server.run(&["events", "list", "--json"]).ok(), "");
}
