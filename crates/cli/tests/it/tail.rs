//! `fanfare tail`: live, from the past, and across a restart of the server.

use crate::process::{Running, Server};

#[test]
fn events_are_shown_as_they_come_and_obeyed_by_no_terminal() {
    let server = Server::in_memory();
    server
        .run(&["publish", "a.old", "-d", "\"x\\u001b[31my\""])
        .ok();
    let past = server
        .run(&["tail", "a.*", "--since", "1h", "-n", "1"])
        .ok();
    assert!(past.contains("a.old") && !past.contains('\x1b'), "{past:?}");
    let live = Running::start(server.command(&["tail", "a.*", "--since", "1h", "--json"]));
    let first: serde_json::Value = serde_json::from_str(&live.line()).unwrap();
    assert_eq!(first["event"]["type"], "a.old");
    // The stream is open: what is published now comes through it.
    server.run(&["publish", "b.other"]).ok();
    server.run(&["publish", "a.new"]).ok();
    let second: serde_json::Value = serde_json::from_str(&live.line()).unwrap();
    assert_eq!(second["event"]["type"], "a.new");
}

#[test]
fn a_bad_pattern_is_a_usage_failure() {
    let server = Server::in_memory();
    let line = server.run(&["tail", "a*"]).failed(2);
    assert!(line.contains("a*"), "{line}");
}
