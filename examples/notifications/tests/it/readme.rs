//! Every `sh` block of the README, run by a shell in the order in which a reader meets it, against
//! `dev`: those of both modes, and those of one alone, which say so. Blocks marked `bash` start
//! something that does not end, or takes long.

use std::net::TcpListener;
use std::process::Command;

use crate::stage::Service;

const README: &str = include_str!("../../README.md");

fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}

/// Runs the blocks, with `mode` as the argument of `dev`; answers what they printed.
async fn follow(mode: &str) -> Vec<String> {
    let redis_port = free_port();
    let mut dev = Command::new(env!("CARGO_BIN_EXE_dev"));
    dev.arg(mode).env("REDIS_PORT", &redis_port);
    let dev = Service::start(dev.env("LISTEN", "127.0.0.1:0")).await;
    let place = dev.url.strip_prefix("http://").unwrap();
    let blocks = README.split("```").skip(1).step_by(2);
    let blocks = blocks.filter_map(|block| {
        let alone = format!("sh {mode}\n");
        block.strip_prefix("sh\n").or(block.strip_prefix(&alone))
    });
    let mut printed = Vec::new();
    for block in blocks {
        let script = block.replace("localhost:8060", place);
        let script = script.replace("-p 6390", &format!("-p {redis_port}"));
        // A machine that runs every test at once is slower than a reader's.
        let script = script.replace("sleep 1", "sleep 3");
        let run = move || {
            Command::new("bash")
                .args(["-euo", "pipefail", "-c", &script])
                .output()
        };
        let ended = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
        assert!(ended.status.success(), "{block}\n{ended:?}");
        printed.push(String::from_utf8(ended.stdout).unwrap());
    }
    assert!(dev.stop().await, "it does not end well");
    printed
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_the_readme_does_what_it_says() {
    let printed = follow("pubsub").await;
    let [eve, letters, list, mended, attic] = printed.as_slice() else {
        panic!("{printed:?}");
    };
    check(eve, letters, mended, attic);
    assert!(list.contains(r#""handler":"notification""#), "{list}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_the_readme_does_the_same_on_streams() {
    let printed = follow("streams").await;
    let [eve, letters, mended, attic] = printed.as_slice() else {
        panic!("{printed:?}");
    };
    check(eve, letters, mended, attic);
}

fn check(eve: &str, letters: &str, mended: &str, attic: &str) {
    let kinds = [
        "New chat",
        "New message",
        "New task assigned",
        "Status changed",
    ];
    for said in kinds.into_iter().chain([r#""status":"started""#, "roof"]) {
        assert!(eve.contains(said), "{eve}");
    }
    assert!(letters.contains(r#"["cellar"]"#), "{letters}");
    assert!(letters.contains(r#""handler":"notification""#), "{letters}");
    assert!(mended.contains(r#""done":2"#), "{mended}");
    assert!(mended.contains(r#""messages":1"#), "{mended}");
    assert!(attic.contains("The attic"), "{attic}");
}
