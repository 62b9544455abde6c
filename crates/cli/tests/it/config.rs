//! The configuration file: errors with their line, and what wins over what.

use crate::process::{Running, fanfare, run};

fn serve_with(text: &str) -> (tempfile::TempDir, std::process::Command) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fanfare.toml");
    std::fs::write(&file, text).unwrap();
    let mut command = fanfare(&["serve", "--config"]);
    command.arg(file);
    (dir, command)
}

#[test]
fn unknown_keys_are_errors_with_their_line() {
    let (_dir, command) = serve_with("backend = 'memory:'\n\n[server]\nlissten = 'x'\n");
    let line = run(command).failed(2);
    assert!(
        line.contains("fanfare.toml:4: unknown key `lissten`"),
        "{line}"
    );
    let (_dir, command) = serve_with("grace = 'soon'\n");
    let line = run(command).failed(2);
    assert!(line.contains("fanfare.toml:1:"), "{line}");
}

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
    let text = "backend = '${NOBODY_SET_THIS:-memory:}'\n[server]\nlisten = '127.0.0.1:1'\n";
    let (_dir, mut command) = serve_with(text);
    command.env("FANFARE_LISTEN", "127.0.0.1:2");
    command.args(["--listen", "127.0.0.1:0"]);
    let server = Running::start(command);
    let line = server.line_with("listening on http://127.0.0.1:");
    assert!(!line.ends_with(":1") && !line.ends_with(":2"), "{line}");

    let (_dir, mut command) = serve_with(text);
    command.env("FANFARE_LISTEN", "127.0.0.1:0");
    Running::start(command).line_with("listening on http://127.0.0.1:");
}
