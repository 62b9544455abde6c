//! What differs between the brokers: program, arguments, and how one tells that it is ready. A new
//! engine is one more function at the end of this file, or a file of its own.

mod nats;
mod postgres;
mod rabbitmq;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub use nats::nats;
pub use postgres::postgres;
pub use rabbitmq::rabbitmq;

/// How long one question to a starting broker may take.
const PROBE_LIMIT: Duration = Duration::from_millis(300);

/// When an acknowledged write is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Never: it is gone with the broker's process.
    Off,
    /// Within a second or so; a killed process loses nothing, a power cut may.
    Periodic,
    /// Before it is acknowledged.
    Always,
}

/// A kind of broker.
#[derive(Debug, Clone, Copy)]
pub struct Engine {
    /// As in `FANFARE_TEST_<NAME>_URL`.
    pub name: &'static str,
    /// Debian's package with the program.
    pub package: &'static str,
    /// Fills an empty directory.
    pub(super) prepare: fn(&Path) -> io::Result<()>,
    /// Starts it in the foreground on this directory and port. The next two ports are its own too.
    pub(super) command: fn(&Path, u16, Durability) -> Command,
    /// Whether it answers.
    pub(super) ready: fn(SocketAddr) -> bool,
    /// How clients reach it.
    pub(super) url: fn(SocketAddr) -> String,
}

impl Engine {
    /// Why it did not start, and what helps.
    pub(super) fn not_started(&self, error: io::Error) -> io::Error {
        if error.kind() != io::ErrorKind::NotFound {
            return error;
        }
        let Self { name, package, .. } = self;
        let variable = format!("FANFARE_TEST_{}_URL", name.to_ascii_uppercase());
        let text = format!(
            "no {name} here: `cargo xtask brokers` or `sudo apt-get install \
             --no-install-recommends {package}` installs it; {variable} names one that runs elsewhere"
        );
        io::Error::new(io::ErrorKind::NotFound, text)
    }
}

/// redis-server with an append-only file.
pub fn redis() -> Engine {
    Engine {
        name: "redis",
        package: "redis-server",
        prepare: |_| Ok(()),
        command: redis_command,
        ready: |address| ask(address, b"PING\r\n", b"+PONG").unwrap_or(false),
        url: |address| format!("redis://{address}/"),
    }
}

pub(super) fn redis_command(dir: &Path, port: u16, durability: Durability) -> Command {
    let (append_only, fsync) = match durability {
        Durability::Off => ("no", "no"),
        Durability::Periodic => ("yes", "everysec"),
        Durability::Always => ("yes", "always"),
    };
    let mut command = Command::new(program("redis-server"));
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .arg("--dir")
        .arg(dir)
        .args(["--save", "", "--logfile", "server.log"])
        .args(["--appendonly", append_only, "--appendfsync", fsync])
        .args(["--enable-debug-command", "local"])
        // A replica that comes is served at once.
        .args(["--repl-diskless-sync-delay", "0"]);
    command
}

/// On the path, or where Debian keeps servers: the path of a plain user lacks that.
pub(super) fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|dir: PathBuf| dir.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| name.into())
}

/// Whether the answer to `question` begins with `expected`.
fn ask(address: SocketAddr, question: &[u8], expected: &[u8]) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, PROBE_LIMIT)?;
    stream.set_read_timeout(Some(PROBE_LIMIT))?;
    stream.write_all(question)?;
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer == expected)
}
