//! redis-server, with an append-only file that is flushed before each answer.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{Engine, Keeps, Kept, answers, program, says};
use crate::Result;

pub(super) const ENGINE: Engine = Engine {
    program: "redis-server",
    version: || says("redis-server"),
    setting: "appendonly yes, appendfsync always",
    young: Duration::ZERO,
    copies: 0,
    prepare: |_| Ok(()),
    command,
    ready: |address| answers(address, b"PING\r\n", b"+PONG").unwrap_or(false),
    delete,
    url: |address| format!("redis://{address}/"),
};

fn command(dir: &Path, port: u16, keeps: Keeps) -> Command {
    let append_only = match keeps {
        Keeps::Everything => "yes",
        Keeps::Nothing => "no",
    };
    let mut command = Command::new(program(ENGINE.program));
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .arg("--dir")
        .arg(dir)
        .args(["--save", ""])
        .args(["--appendonly", append_only, "--appendfsync", "always"]);
    command
}

/// By a client that knows nothing of what it deletes.
fn delete(address: SocketAddr, kept: Kept) -> Result {
    let pattern = match kept {
        Kept::Stream => "fanfare",
        Kept::Groups => "{fanfare}:ff:s:*",
    };
    let script = "return redis.call('DEL', unpack(redis.call('KEYS', ARGV[1])))";
    let words = ["EVAL", script, "0", pattern];
    let words = words.map(|word| format!("${}\r\n{word}\r\n", word.len()));
    let request = format!("*4\r\n{}", words.concat());
    if answers(address, request.as_bytes(), b":")? {
        Ok(())
    } else {
        Err(format!("{pattern} could not be deleted").into())
    }
}
