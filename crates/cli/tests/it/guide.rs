//! Every `sh` block of the guide, run by a shell in the order in which a reader meets it. Blocks
//! marked `bash` are for other machines. `TOKEN` and `ID` stand for what the reader saw last.

use std::process::Command;

use crate::process::{Ended, Server, run};

const BINARY: &str = env!("CARGO_BIN_EXE_fanfare");

/// The `sh` blocks of a page.
fn blocks(page: &str) -> Vec<&str> {
    let fenced = page.split("```").skip(1).step_by(2);
    fenced
        .filter_map(|block| block.strip_prefix("sh\n"))
        .collect()
}

/// The first word in `text` that begins with `prefix`.
fn word<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let mut words = text.split(|c: char| c.is_whitespace() || c == '"');
    words.find(|word| word.starts_with(prefix))
}

fn shell(server: &Server, dir: &std::path::Path, script: &str) -> Ended {
    let bin = std::path::Path::new(BINARY).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]);
    command.env("PATH", path).env("FANFARE_SERVER", &server.url);
    command.current_dir(dir).stdin(std::process::Stdio::null());
    run(command)
}

fn follow(page: &str) {
    let dir = tempfile::tempdir().unwrap();
    let line = "{\"type\":\"orders.placed\",\"data\":1}\n";
    std::fs::write(dir.path().join("orders.jsonl"), line.repeat(180)).unwrap();
    std::fs::write(dir.path().join("order.json"), "{}").unwrap();
    let server = Server::on_disk(&dir.path().join("fanfare-data"));
    let (mut token, mut id) = (String::new(), String::new());
    for block in blocks(page) {
        let mut script = String::new();
        for line in block.lines() {
            script.push_str(line);
            // A tail never ends by itself, and one event is enough to see that it works.
            let endless = line.starts_with("fanfare tail");
            script.push_str(if endless { " -n 1\n" } else { "\n" });
        }
        let script = script
            .replace("localhost:8787", server.address())
            .replace("TOKEN", &token)
            .replace("ID", &id);
        let ended = shell(&server, dir.path(), &script);
        assert_eq!(ended.code, 0, "{script}\n{ended:?}");
        assert!(!ended.out.contains("\"ok\":false"), "{script}\n{ended:?}");
        if let Some(seen) = word(&ended.out, "billing.") {
            seen.clone_into(&mut token);
        }
        let letters = server.run(&["dead-letters", "list", "--json"]).objects();
        if let Some(letter) = letters.first() {
            letter["id"].as_str().unwrap().clone_into(&mut id);
        }
    }
}

#[test]
fn getting_started_works_as_written() {
    follow(include_str!("../../../../docs/guide/getting-started.md"));
}

#[test]
fn retries_and_dead_letters_works_as_written() {
    follow(include_str!(
        "../../../../docs/guide/retries-and-dead-letters.md"
    ));
}

#[test]
fn the_command_line_works_as_written() {
    follow(include_str!("../../../../docs/guide/command-line.md"));
}
