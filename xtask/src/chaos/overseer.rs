//! Our end of the talk with the checker: a command, an answer, and a limit to waiting for it.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use super::fault::Fault;
use super::judge::Verdict;
use crate::Result;
use crate::command;

/// The longest the checker may take for anything; the verdict drains first.
const PATIENCE: Duration = Duration::from_mins(20);

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

    /// There is a server, or several that share the work; returns once it gave its first good answer.
    pub(super) fn up(&mut self, addresses: &[&str]) -> Result {
        let addresses = addresses.join(" ");
        self.ask(&format!("up {addresses}")).map(|_| ())
    }

    /// The server is gone; answers how many publishes and settlements were in flight at `moment`.
    pub(super) fn down(&mut self, death: Fault, moment: u64) -> Result<(u64, u64)> {
        let how = match death {
            Fault::PowerCut => "cut",
            _ => "down",
        };
        self.ask_two(&format!("{how} {moment}"))
    }

    /// A fault is about to come: clients take no breath.
    pub(super) fn brace(&mut self) -> Result {
        self.ask("brace").map(|_| ())
    }

    /// Waits until there is something to hit, but not for long.
    pub(super) fn aim(&mut self) -> Result {
        self.ask("aim").map(|_| ())
    }

    /// It came; answers how many publishes and settlements were in flight at `moment`.
    pub(super) fn fault(&mut self, moment: u64) -> Result<(u64, u64)> {
        self.ask_two(&format!("fault {moment}"))
    }

    /// It ended at `moment`; answers how long it then took, in microseconds, until every publisher was
    /// acknowledged and every subscription had a delivery.
    pub(super) fn healed(&mut self, moment: u64) -> Result<(u64, u64)> {
        self.ask_two(&format!("healed {moment}"))
    }

    /// Somebody deleted the stream, or what is kept beside it.
    pub(super) fn deleted(&mut self, stream: bool) -> Result {
        let what = if stream { "stream" } else { "groups" };
        self.ask(&format!("deleted {what}")).map(|_| ())
    }

    /// Waits until so many losses were told.
    pub(super) fn told(&mut self, number: u64) -> Result {
        self.ask(&format!("told {number}")).map(|_| ())
    }

    /// Settles everything and compares; the broker may have doubled so many deliveries.
    pub(super) fn judge(&mut self, copies: u64, addresses: &[&str]) -> Result<Verdict> {
        let answer = self.ask(&format!("judge {copies} {}", addresses.join(" ")))?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// For answers of a word and two numbers.
    fn ask_two(&mut self, command: &str) -> Result<(u64, u64)> {
        let answer = self.ask(command)?;
        let mut words = answer.split(' ').skip(1).map(str::parse);
        match (words.next(), words.next()) {
            (Some(Ok(one)), Some(Ok(other))) => Ok((one, other)),
            _ => Err(format!("the checker said: {answer}").into()),
        }
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
