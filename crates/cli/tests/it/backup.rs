//! `fanfare backup` and `fanfare doctor`.

use std::time::Duration;

use fanfare_conformance::broker::{Broker, Durability, postgres};

use crate::process::{Server, fanfare, run};

#[test]
fn a_copy_taken_while_the_server_writes_opens_with_everything_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let (data, copy) = (dir.path().join("data"), dir.path().join("copy"));
    let server = Server::on_disk(&data);
    server.run(&["subscriptions", "create", "s", "**"]).ok();
    server.run(&["publish", "a", "--id", "before"]).ok();
    let backup = || {
        let mut command = fanfare(&["backup"]);
        command.arg(&copy).arg("--data-dir").arg(&data);
        run(command)
    };
    assert!(backup().ok().contains("checked"));
    assert!(backup().failed(1).contains("there already"));
    server.run(&["publish", "a", "--id", "after"]).ok();

    let restored = Server::on_disk(&copy);
    let objects = restored.run(&["events", "list", "--json"]).objects();
    assert_eq!(objects.len(), 1);
    assert_eq!(objects[0]["event"]["id"], "before");
    assert!(restored.run(&["audit"]).ok().contains("conservation holds"));
}

#[test]
fn there_is_nothing_to_copy_where_nothing_is() {
    let dir = tempfile::tempdir().unwrap();
    for url in [
        "memory:".to_owned(),
        format!("sqlite:{}/no", dir.path().display()),
    ] {
        let mut command = fanfare(&["backup", "--backend", &url]);
        command.arg(dir.path().join("copy"));
        run(command).failed(1);
    }
    assert!(!dir.path().join("no").exists());
}

#[test]
fn the_doctor_sees_a_server_at_work_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let look = |server: &str| {
        let mut command = fanfare(&["doctor", "--json", "--server", server, "--data-dir"]);
        command.arg(&data);
        run(command)
    };
    let state = |findings: &[serde_json::Value], check: &str| -> String {
        let found = findings.iter().find(|finding| finding["check"] == check);
        found.map_or_else(String::new, |f| f["state"].as_str().unwrap().to_owned())
    };
    let before = look("http://127.0.0.1:9").objects();
    assert_eq!(state(&before, "server"), "note");
    assert_eq!(state(&before, "backend"), "note");
    assert!(!data.exists());

    let server = Server::on_disk(&data);
    let during = look(&server.url).objects();
    for check in ["server", "ready", "audit", "backend"] {
        assert_eq!(state(&during, check), "ok", "{check}");
    }
    drop(server);
    let after = look("http://127.0.0.1:9").objects();
    assert_eq!(state(&after, "durability"), "ok");
    let mut thorough = fanfare(&["doctor", "--thorough", "--data-dir"]);
    thorough
        .arg(&data)
        .env("FANFARE_SERVER", "http://127.0.0.1:9");
    assert!(run(thorough).ok().contains("nothing is damaged"));

    let mut broken = fanfare(&["doctor", "--backend", "nonsense"]);
    broken.env("FANFARE_SERVER", "http://127.0.0.1:9");
    assert_eq!(run(broken).code, 1);
}

#[tokio::test]
async fn the_doctor_makes_no_schema() {
    let server = Broker::start(postgres(), Durability::Always).await.unwrap();
    let look = || {
        let mut command = fanfare(&["doctor", "--backend", &server.url()]);
        command.env("FANFARE_SERVER", "http://127.0.0.1:9");
        run(command).ok()
    };
    for _ in 0..2 {
        let said = look();
        assert!(said.contains("nothing there yet"), "{said}");
    }
    let bus = fanfare::connect(&server.url()).await.unwrap();
    bus.shutdown(Duration::ZERO).await.unwrap();
    let said = look();
    assert!(said.contains("opens and verifies"), "{said}");
}
