//! Our end of the talk with the checker: a command, an answer, and a limit to waiting for it.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::judge::Verdict;
use super::progress::Death;
use crate::Result;
use crate::command;

/// The longest the checker may take for anything; the verdict drains first.
const PATIENCE: Duration = Duration::from_mins(3);

/// The checker's process.
#[derive(Debug)]
pub(super) struct Overseer {
    child: Child,
    stdin: ChildStdin,
    answers: Receiver<String>,
}

impl Overseer {
    pub(super) fn start(record: &Path, seed: u64) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("chaos-checker")
            .arg(record)
            .arg(seed.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().ok_or("the checker has no stdin")?;
        let answers = command::lines_of(&mut child);
        Ok(Self {
            child,
            stdin,
            answers,
        })
    }

    /// There is a server; returns once it gave its first good answer.
    pub(super) fn up(&mut self, address: &str) -> Result {
        self.ask(&format!("up {address}")).map(|_| ())
    }

    /// The server is gone; answers how many publishes and settlements were in flight at `moment`.
    pub(super) fn down(&mut self, death: Death, moment: u64) -> Result<(u64, u64)> {
        let how = match death {
            Death::Kill => "down",
            Death::Cut => "cut",
        };
        let answer = self.ask(&format!("{how} {moment}"))?;
        let mut words = answer.split(' ').skip(1).map(str::parse);
        match (words.next(), words.next()) {
            (Some(Ok(publishes)), Some(Ok(settlements))) => Ok((publishes, settlements)),
            _ => Err(format!("the checker said: {answer}").into()),
        }
    }

    /// Settles everything and compares.
    pub(super) fn judge(&mut self, address: &str) -> Result<Verdict> {
        Ok(serde_json::from_str(
            &self.ask(&format!("judge {address}"))?,
        )?)
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        writeln!(self.stdin, "{command}")?;
        self.answers
            .recv_timeout(PATIENCE)
            .map_err(|error| format!("the checker did not answer `{command}`: {error}").into())
    }
}

impl Drop for Overseer {
    fn drop(&mut self) {
        // Its work is done, or the campaign is over.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
