//! `fanfare events`: filters, pages, and readers that go away.

use std::process::Stdio;

use crate::process::{Running, Server};

/// As many lines as take more than one page.
fn lines(count: usize) -> String {
    (0..count).fold(String::new(), |all, n| {
        all + &format!(
            "{{\"type\":\"a.n{}\",\"data\":{n},\"key\":\"{}\"}}\n",
            n % 2,
            n % 3
        )
    })
}

#[test]
fn every_page_is_listed_in_order() {
    let server = Server::in_memory();
    server.run_with_input(&["import", "-"], &lines(2_500)).ok();
    let data = |args: &[&str]| -> Vec<u64> {
        let objects = server.run(args).objects();
        objects
            .iter()
            .map(|o| o["event"]["data"].as_u64().unwrap())
            .collect()
    };
    let all = data(&["events", "list", "--json"]);
    assert_eq!(all, (0..2_500).collect::<Vec<_>>());
    let newest = data(&["events", "list", "--json", "-n", "1200", "--reverse"]);
    assert_eq!(newest, (1_300..2_500).rev().collect::<Vec<_>>());
    let filtered = data(&["events", "list", "--json", "--type", "a.n1", "--key", "0"]);
    let expected: Vec<_> = (0..2_500).filter(|n| n % 2 == 1 && n % 3 == 0).collect();
    assert_eq!(filtered, expected);
    assert_eq!(
        data(&["events", "list", "--json", "--since", "1h"]).len(),
        2_500
    );
    assert_eq!(
        data(&["events", "list", "--json", "--until", "1h"]).len(),
        0
    );
}

#[test]
fn tables_have_a_header_and_no_colour_in_a_pipe() {
    let server = Server::in_memory();
    server.run_with_input(&["import", "-"], &lines(2)).ok();
    let table = server.run(&["events", "list"]).ok();
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[0].starts_with("POSITION  RECORDED"), "{table}");
    assert!(!table.contains('\x1b'), "{table:?}");
    let column = lines[0].find("ID").unwrap();
    assert!(lines[1].chars().nth(column - 1) == Some(' '), "{table}");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let server = Server::in_memory();
    server.run_with_input(&["import", "-"], &lines(5_000)).ok();
    let mut command = server.command(&["events", "list", "--json"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    child.stdout = None;
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn an_event_that_is_not_there_is_said_so() {
    let server = Server::in_memory();
    let line = server.run(&["events", "show", "nobody"]).failed(1);
    assert!(line.contains("nobody"), "{line}");
    let quiet = Running::start(server.command(&["events", "list"])).end();
    assert_eq!((quiet.code, quiet.out.as_str()), (0, ""));
}
