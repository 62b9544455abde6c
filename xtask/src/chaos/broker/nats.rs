//! nats-server with JetStream. What it acknowledges is in the system's hands, which a killed process
//! leaves alone.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{Engine, Keeps, Kept, PROBE, chance, program, says};
use crate::Result;

/// How long a deletion may take.
const DELETION: Duration = Duration::from_secs(5);
/// Lines of an answer that are read in vain before we give up: the server pings in between.
const LINES: usize = 20;

pub(super) const ENGINE: Engine = Engine {
    program: "nats-server",
    version: || says("nats-server"),
    setting: "JetStream in files, one replica",
    young: Duration::ZERO,
    copies: 0,
    prepare: |_| Ok(()),
    command,
    ready: |address| is_ready(address).unwrap_or(false),
    delete,
    url: |address| format!("nats://{address}"),
};

fn command(dir: &Path, port: u16, keeps: Keeps) -> Command {
    let store = match keeps {
        Keeps::Everything => dir.to_owned(),
        // Whoever starts looks elsewhere.
        Keeps::Nothing => dir.join(chance::now().to_string()),
    };
    let mut command = Command::new(program(ENGINE.program));
    command
        .args(["--addr", "127.0.0.1", "--port", &port.to_string()])
        .args(["--jetstream", "--store_dir"])
        .arg(store);
    command
}

/// By a client that knows nothing of what it deletes.
fn delete(address: SocketAddr, kept: Kept) -> Result {
    let stream = match kept {
        Kept::Stream => "fanfare_fanfare",
        Kept::Groups => "fanfarestate_fanfare",
    };
    let answer = ask(address, &format!("STREAM.DELETE.{stream}"), DELETION)?;
    if answer.contains("\"success\":true") {
        Ok(())
    } else {
        Err(format!("{stream} could not be deleted: {answer}").into())
    }
}

/// Whether JetStream answers.
fn is_ready(address: SocketAddr) -> io::Result<bool> {
    Ok(ask(address, "INFO", PROBE)?.contains("\"api\":"))
}

/// One call of the JetStream API: the line of the answer that is JSON. Empty where nobody listens.
fn ask(address: SocketAddr, call: &str, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PROBE)?;
    stream.set_read_timeout(Some(patience))?;
    write!(
        stream,
        "CONNECT {{\"verbose\":false,\"headers\":true,\"no_responders\":true}}\r\n\
         SUB answer 1\r\nPUB $JS.API.{call} answer 0\r\n\r\n"
    )?;
    let mut lines = BufReader::new(stream).lines().take(LINES);
    // Behind the line that says how long it is; one with headers says that nobody listens.
    while let Some(line) = lines.next().transpose()? {
        if line.starts_with("MSG ") {
            return lines.next().unwrap_or_else(|| Ok(String::new()));
        }
        if line.starts_with("HMSG ") {
            break;
        }
    }
    Ok(String::new())
}
