//! `fanfare serve`: starting, refusing to start, and draining.

use crate::process::{Running, Server, fanfare, run};

#[test]
fn sigterm_drains_and_ends_well() {
    for signal in ["TERM", "INT"] {
        let server = Server::in_memory();
        server.run(&["publish", "a"]).ok();
        let tail = Running::start(server.command(&["tail", "--since", "1h"]));
        tail.line_with(" a ");
        server.process.signal(signal);
        let ended = server.process.end();
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(ended.err.contains("stopped"), "{ended:?}");
    }
}

#[test]
fn a_port_that_is_taken_is_said_in_one_line() {
    let server = Server::in_memory();
    let address = server.address();
    let args = ["serve", "--backend", "memory:", "--listen", address];
    let line = run(fanfare(&args)).failed(1);
    assert!(line.contains(address) && line.contains("in use"), "{line}");
}

#[test]
fn an_address_that_others_reach_needs_insecure() {
    let args = ["serve", "--backend", "memory:", "--listen", "0.0.0.0:0"];
    let line = run(fanfare(&args)).failed(2);
    assert!(line.contains("--insecure"), "{line}");
}

#[test]
fn a_backend_that_is_not_there_is_said_without_its_credentials() {
    for (url, code) in [
        ("redis://ada:hunter2@127.0.0.1:1", 1),
        ("redis://ada:hun/ter2@x?y=z", 2),
    ] {
        let ended = run(fanfare(&["serve", "--backend", url]));
        let line = ended.failed(code);
        assert!(line.contains("redis") && !line.contains("ter2"), "{line}");
    }
    let line = run(fanfare(&["serve", "--backend", "./data"])).failed(2);
    assert!(line.contains("sqlite:"), "{line}");
}

#[test]
fn a_second_server_on_the_directory_is_refused_and_the_first_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on_disk(dir.path());
    let args = ["serve", "--listen", "127.0.0.1:0", "--data-dir"];
    let mut second = fanfare(&args);
    second.arg(dir.path());
    let line = run(second).failed(1);
    assert!(line.contains("in use by another process"), "{line}");
    server.run(&["publish", "a"]).ok();
}

#[test]
fn a_directory_that_cannot_be_used_is_said_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "not a database").unwrap();
    let mut in_the_way = fanfare(&["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
    in_the_way.arg(&file);
    let ended = run(in_the_way);
    assert!(
        ended.err.starts_with("error: ") && ended.err.lines().count() == 1,
        "{ended:?}"
    );

    std::fs::write(dir.path().join("fanfare.db"), vec![7; 8192]).unwrap();
    let mut damaged = fanfare(&["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
    damaged.arg(dir.path());
    let line = run(damaged).failed(1);
    assert!(line.contains("damaged"), "{line}");
}
