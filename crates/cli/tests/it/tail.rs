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
fn a_tail_goes_on_without_gap_or_repeat_when_the_server_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on_disk(dir.path());
    let publish = |server: &Server, id: &str| server.run(&["publish", "a", "--id", id]).ok();
    publish(&server, "1");
    let args = ["tail", "--since", "1h", "--json", "-n", "4"];
    let tail = Running::start(server.command(&args));
    let id = |line: String| -> String {
        let item: serde_json::Value = serde_json::from_str(&line).unwrap();
        item["event"]["id"].as_str().unwrap().to_owned()
    };
    assert_eq!(id(tail.line()), "1");
    publish(&server, "2");
    assert_eq!(id(tail.line()), "2");
    let server = server.kill_and_restart(dir.path());
    publish(&server, "3");
    publish(&server, "4");
    assert_eq!(id(tail.line()), "3");
    assert_eq!(id(tail.line()), "4");
    let ended = tail.end();
    assert_eq!((ended.code, ended.out.as_str()), (0, ""), "{ended:?}");
}

#[test]
fn a_bad_pattern_is_a_usage_failure() {
    let server = Server::in_memory();
    let line = server.run(&["tail", "a*"]).failed(2);
    assert!(line.contains("a*"), "{line}");
}
