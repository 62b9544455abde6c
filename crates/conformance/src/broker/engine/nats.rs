//! NATS with JetStream. What it acknowledges is in the system's hands, not on the disk, unless it is
//! recent enough to be told otherwise.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Durability, Engine, ask, program};

const PROGRAM: &str = "nats-server";
/// Tells a server that knows it (2.10 and later) to write before it acknowledges.
const ALWAYS: &str = "jetstream { sync_interval: always }\n";
/// Where that stands, if the server knows it.
const SETTINGS: &str = "always.conf";

/// nats-server with JetStream, its streams in files.
///
/// Whether a stream outlives the process is the stream's own setting, so
/// [`Off`](Durability::Off) is the same as [`Periodic`](Durability::Periodic): written by the system
/// when it likes, a killed process loses nothing. Before 2.10
/// [`Always`](Durability::Always) is no more than that either.
pub fn nats() -> Engine {
    Engine {
        name: "nats",
        package: PROGRAM,
        prepare,
        command,
        // Its first words, before anybody asked.
        ready: |address| ask(address, b"", b"INFO ").unwrap_or(false),
        url: |address| format!("nats://{address}"),
    }
}

fn prepare(dir: &Path) -> io::Result<()> {
    let settings = dir.join(SETTINGS);
    std::fs::write(&settings, ALWAYS)?;
    let mut check = Command::new(program(PROGRAM));
    check.arg("-t").arg("-c").arg(&settings);
    let known = check.stdin(Stdio::null()).output()?.status.success();
    if !known {
        std::fs::remove_file(settings)?;
    }
    Ok(())
}

fn command(dir: &Path, port: u16, durability: Durability) -> Command {
    let mut command = Command::new(program(PROGRAM));
    command
        .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
        .arg("--jetstream")
        .arg("--store_dir")
        .arg(dir)
        .arg("--log")
        .arg(dir.join("server.log"));
    let settings = dir.join(SETTINGS);
    if durability == Durability::Always && settings.is_file() {
        command.arg("--config").arg(settings);
    }
    command
}
