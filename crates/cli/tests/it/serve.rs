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
    for url in [
        "redis://ada:hunter2@localhost",
        "redis://ada:hun/ter2@x?y=z",
    ] {
        let ended = run(fanfare(&["serve", "--backend", url]));
        let line = ended.failed(1);
        assert!(line.contains("redis") && !line.contains("ter2"), "{line}");
    }
    let line = run(fanfare(&["serve", "--backend", "./data"])).failed(2);
    assert!(line.contains("sqlite:"), "{line}");
}
