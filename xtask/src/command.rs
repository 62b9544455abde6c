//! Running other programs with their output shown, and with a limit: nothing here may hang.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::Result;

/// Lines that may wait between the program and us; more than that and the program waits.
const LINES: usize = 1_000;

/// A cargo command at the root of the workspace, with the cargo that runs us.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(args).current_dir(crate::root());
    command
}

/// Runs the command for at most `limit`, prints what it says on stdout line by line and hands each
/// line to `seen`. Its stderr is ours.
pub(crate) fn stream(
    mut command: Command,
    limit: Duration,
    mut seen: impl FnMut(&str),
) -> Result<ExitStatus> {
    let name = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{name}: {error}"))?;
    let lines = lines_of(&mut child);
    let watch = Watchdog::over(limit);
    loop {
        match lines.recv_timeout(watch.left()) {
            Ok(line) => {
                println!("{line}");
                seen(&line);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(child.wait()?),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                child.kill()?;
                child.wait()?;
                return Err(format!("{name}: not done after {limit:?}, killed").into());
            }
        }
    }
}

/// Runs the command and answers its stdout, or its stderr as the error.
pub(crate) fn output(mut command: Command) -> Result<String> {
    let name = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("{name}: {}: {}", output.status, said.trim()).into())
    }
}

/// What the child prints, line by line; the channel ends when it does.
pub(crate) fn lines_of(child: &mut Child) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::sync_channel(LINES);
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            for line in BufReader::new(stdout)
                .lines()
                .map_while(std::io::Result::ok)
            {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
    }
    receive
}

/// How much of a limit is left.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watchdog {
    started: std::time::Instant,
    limit: Duration,
}

impl Watchdog {
    /// Starts now.
    #[expect(
        clippy::disallowed_methods,
        reason = "the machine's time is what we measure"
    )]
    pub(crate) fn over(limit: Duration) -> Self {
        Self {
            started: std::time::Instant::now(),
            limit,
        }
    }

    /// How long it has been running.
    pub(crate) fn spent(&self) -> Duration {
        self.started.elapsed()
    }

    /// How much is left; zero when over.
    pub(crate) fn left(&self) -> Duration {
        self.limit.saturating_sub(self.spent())
    }
}
