//! Every `sh` block of the README, run by a shell in the order in which a reader meets it, against
//! `dev`. Blocks marked `bash` start something that does not end, or takes long.

use std::net::TcpListener;
use std::process::Command;

use crate::stage::Service;

const README: &str = include_str!("../../README.md");

fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}

/// Runs the blocks, with `mode` as the argument of `dev`; answers what they printed.
async fn follow(mode: &str, runs: impl Fn(&str) -> bool) -> Vec<String> {
    let redis_port = free_port();
    let mut dev = Command::new(env!("CARGO_BIN_EXE_dev"));
    dev.arg(mode).env("REDIS_PORT", &redis_port);
    let dev = Service::start(dev.env("LISTEN", "127.0.0.1:0")).await;
    let place = dev.url.strip_prefix("http://").unwrap();
    let blocks = README.split("```").skip(1).step_by(2);
    let blocks = blocks.filter_map(|block| block.strip_prefix("sh\n"));
    let mut printed = Vec::new();
    for block in blocks {
        let lines = block.split_inclusive('\n').filter(|line| runs(line));
        let script = lines.collect::<String>();
        let script = script.replace("localhost:8060", place);
        let script = script.replace("-p 6390", &format!("-p {redis_port}"));
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
    let printed = follow("pubsub", |_| true).await;
    let [eve, letters, mended, attic] = printed.as_slice() else {
        panic!("{printed:?}");
    };
    for said in [
        "New chat",
        "New message",
        "New task assigned",
        r#""status":"started""#,
        "roof",
    ] {
        assert!(eve.contains(said), "{eve}");
    }
    assert!(letters.starts_with(r#"{"event":""#) && letters.contains(r#"["cellar"]"#));
    assert_eq!(
        letters.matches(r#""handler":"notification""#).count(),
        2,
        "{letters}"
    );
    assert!(
        mended.contains(r#""done":2"#) && mended.contains(r#""messages":1"#),
        "{mended}"
    );
    assert!(attic.contains("The attic"), "{attic}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_the_readme_does_the_same_on_streams() {
    // A pub/sub client is no publisher there, and behind it nobody knows an attic.
    let printed = follow("streams", |line| {
        !line.contains("redis-cli") && !line.contains("attic")
    })
    .await;
    assert!(printed[0].contains("New task assigned"), "{printed:?}");
    assert!(
        printed[2].contains(r#""done":2"#) && printed[2].contains(r#""messages":1"#),
        "{printed:?}"
    );
}
