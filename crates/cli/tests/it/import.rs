//! `fanfare import`: exact counts, bad lines by number, and going on after a kill.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Stdio;

use crate::process::{Running, Server};

const TYPES: [&str; 6] = [
    "github.issues.opened",
    "github.issues.closed",
    "github.push",
    "github.label.created",
    "gitlab.label.created",
    "github.pull_request.review.created",
];

fn file(lines: usize) -> String {
    (0..lines).fold(String::new(), |all, n| {
        all + &format!(
            "{{\"type\":\"{}\",\"data\":{{\"n\":{n}}}}}\n",
            TYPES[n % TYPES.len()]
        )
    })
}

#[test]
fn a_file_is_stored_once_and_patterns_select_exactly() {
    let server = Server::in_memory();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hooks.jsonl");
    std::fs::write(&path, file(180)).unwrap();
    let path = path.to_str().unwrap();
    let first = server.run(&["import", path]).ok();
    assert_eq!(first, "180 stored, 0 duplicates\n");
    let second = server
        .run(&["import", path, "--in-flight", "4", "--batch", "7"])
        .ok();
    assert_eq!(second, "0 stored, 180 duplicates\n");
    for (pattern, each) in [
        ("github.issues.*", vec![0, 1]),
        ("*.*.created", vec![3, 4]),
        ("github.**", vec![0, 1, 2, 3, 5]),
        ("**.created", vec![3, 4, 5]),
        ("nothing.*", vec![]),
    ] {
        let objects = server
            .run(&["events", "list", "--type", pattern, "--json"])
            .objects();
        let wanted: BTreeSet<_> = each.iter().map(|n| TYPES[*n]).collect();
        let found: BTreeSet<_> = objects
            .iter()
            .map(|o| o["event"]["type"].as_str().unwrap())
            .collect();
        assert_eq!(found, wanted, "{pattern}");
        assert_eq!(objects.len(), each.len() * 30, "{pattern}");
    }
    let one = server
        .run(&["events", "list", "--json", "-n", "1"])
        .objects();
    assert_eq!(one[0]["event"]["source"], "/import/hooks.jsonl");
}

#[test]
fn bad_lines_are_named_and_all_others_stored() {
    let server = Server::in_memory();
    let long = "x".repeat(300 * 1024);
    let text = format!(
        "{{\"type\":\"a\"}}\n\n{{\"type\":\"a..b\"}}\nnonsense\n{{\"type\":\"a\",\"data\":\"{long}\"}}\n{{\"type\":\"a\",\"surprise\":1}}\n{{\"type\":\"z\"}}\n"
    );
    let ended = server.run_with_input(&["import", "-"], &text);
    assert_eq!(ended.code, 1);
    assert_eq!(ended.out, "2 stored, 0 duplicates, 4 bad lines\n");
    let mut named: Vec<_> = ended
        .err
        .lines()
        .filter_map(|line| line.strip_prefix("stdin:")?.split(':').next())
        .collect();
    named.sort_unstable();
    assert_eq!(named, ["3", "4", "5", "6"], "{}", ended.err);
    let json = server.run_with_input(&["import", "-", "--json"], &text);
    assert_eq!(json.out, "{\"stored\":0,\"duplicates\":2,\"bad\":4}\n");
}

#[test]
fn a_killed_import_run_again_stores_each_line_once() {
    let server = Server::in_memory();
    let text = file(400);
    let half = text.lines().take(200).collect::<Vec<_>>().join("\n") + "\n";
    let args = ["import", "-", "--batch", "10"];
    let mut command = server.command(&args);
    command.stdin(Stdio::piped());
    let mut import = Running::start(command);
    let mut stdin = import.stdin();
    stdin.write_all(half.as_bytes()).unwrap();
    // Its input stays open, so it is in the middle of its work when some are stored.
    server.run(&["tail", "--since", "1h", "-n", "100"]).ok();
    import.kill();
    drop(stdin);
    let before = server.run(&["events", "list", "--json"]).objects().len();
    assert!((100..=200).contains(&before), "{before}");
    let after = server.run_with_input(&args, &text).ok();
    assert_eq!(
        after,
        format!("{} stored, {before} duplicates\n", 400 - before)
    );
    let objects = server.run(&["events", "list", "--json"]).objects();
    let numbers: BTreeSet<_> = objects
        .iter()
        .map(|o| o["event"]["data"]["n"].as_u64().unwrap())
        .collect();
    assert_eq!((objects.len(), numbers.len()), (400, 400));
}

#[test]
fn an_import_outlives_a_server_that_was_killed_under_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on_disk(dir.path());
    let text = file(400);
    let (first, second) = text.split_at(text.len() / 2);
    let mut command = server.command(&["import", "-", "--batch", "10"]);
    command.stdin(Stdio::piped());
    let mut import = Running::start(command);
    let mut stdin = import.stdin();
    stdin.write_all(first.as_bytes()).unwrap();
    server.run(&["tail", "--since", "1h", "-n", "100"]).ok();
    let server = server.kill_and_restart(dir.path());
    stdin.write_all(second.as_bytes()).unwrap();
    drop(stdin);
    let ended = import.end();
    assert_eq!(ended.code, 0, "{ended:?}");
    // A batch whose answer the kill swallowed was stored before it was sent again.
    let counts: Vec<usize> = ended
        .out
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    assert_eq!(counts.iter().sum::<usize>(), 400, "{ended:?}");
    assert_eq!(
        server.run(&["events", "list", "--json"]).objects().len(),
        400
    );
}

#[test]
fn what_cannot_be_read_is_said_before_anything_is_sent() {
    let server = Server::in_memory();
    let line = server.run(&["import", "/nowhere.jsonl"]).failed(2);
    assert!(line.contains("/nowhere.jsonl"), "{line}");
    assert!(server.run(&["import", "/"]).failed(2).contains("directory"));
}
