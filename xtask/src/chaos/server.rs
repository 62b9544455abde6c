//! The victim: the real `fanfare serve` in a process of its own, killed without warning.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::Result;
use crate::command;
use crate::json::At;

/// The longest a start may take, recovery included.
const START: Duration = Duration::from_mins(1);

/// How the server is started.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) binary: PathBuf,
    /// `sqlite`, `redis`, ...
    pub(super) backend: String,
}

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    pub(super) address: String,
}

/// Builds the binary, optimised or not, and finds out where it is.
pub(super) fn build(release: bool) -> Result<PathBuf> {
    let mut args = vec!["build", "--quiet", "--locked", "-p", "fanfare-cli"];
    args.push("--message-format=json-render-diagnostics");
    if release {
        args.push("--release");
    }
    command::output(command::cargo(&args))?
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| *message.at("target/name") == "fanfare")
        .find_map(|message| message.at("executable").as_str().map(PathBuf::from))
        .ok_or_else(|| "cargo built no binary called fanfare".into())
}

impl Program {
    /// Starts it over a directory of its own, on a free port.
    pub(super) fn start_on(&self, data: &Path, log: &Path) -> Result<Server> {
        let url = match self.backend.as_str() {
            "memory" => "memory:".to_owned(),
            backend => format!("{backend}:{}", data.display()),
        };
        self.start(&url, 0, data, log)
    }

    /// Starts it over this backend and port, and waits until it says where it listens.
    pub(super) fn start(&self, url: &str, port: u16, data: &Path, log: &Path) -> Result<Server> {
        let listen = format!("127.0.0.1:{port}");
        let mut child = Command::new(&self.binary)
            .args(["serve", "--listen", &listen, "--backend", url])
            // What a broker forgets is not kept by us either: it is the broker that is tried.
            .args(["--journal", "none"])
            .arg("--data-dir")
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(log)?)
            .spawn()?;
        if let Some(address) = listening(&mut child) {
            return Ok(Server { child, address });
        }
        let _ = child.kill();
        let status = child.wait()?;
        Err(format!("the server did not start ({status}), see {}", log.display()).into())
    }
}

impl Server {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and gone when this returns. Fine if somebody else killed it already.
    pub(super) fn kill(mut self) -> Result {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first address in what it prints; what follows is read and thrown away.
fn listening(child: &mut Child) -> Option<String> {
    let lines = BufReader::new(child.stdout.take()?).lines();
    let (send, receive) = mpsc::sync_channel(1);
    thread::spawn(move || {
        for line in lines.map_while(std::io::Result::ok) {
            if let Some(address) = address_in(&line) {
                let _ = send.try_send(address);
            }
        }
    });
    receive.recv_timeout(START).ok()
}

fn address_in(line: &str) -> Option<String> {
    let host = "127.0.0.1:";
    let port = line.split(host).nth(1)?;
    let digits: String = port.chars().take_while(char::is_ascii_digit).collect();
    (!digits.is_empty()).then(|| format!("{host}{digits}"))
}

#[cfg(test)]
mod tests {
    use super::address_in;

    #[test]
    fn the_address_is_found_in_what_people_read() {
        let line = "API  http://127.0.0.1:40113/v1 (sqlite:/data)";
        assert_eq!(address_in(line).unwrap(), "127.0.0.1:40113");
        assert_eq!(address_in("fanfare 0.1.0"), None);
    }
}
