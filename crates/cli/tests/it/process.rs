//! Starting the binary, and waiting for it within a limit.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use fanfare_conformance::broker::Ports;
use serde_json::Value;

/// How long anything may take before the test has failed.
const LIMIT: Duration = Duration::from_mins(1);
/// How long what tries or measures much may take before it says something.
const LONG_LIMIT: Duration = Duration::from_mins(5);

/// What a command printed and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// What it printed, having ended well.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// Its one line of error, having ended with `code`.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:?}");
        let lines: Vec<_> = self.err.lines().collect();
        assert_eq!(lines.len(), 1, "one line for people: {self:?}");
        let line = lines[0].strip_prefix("error: ");
        line.unwrap_or_else(|| panic!("{:?}", self.err)).to_owned()
    }

    /// One JSON object for each line.
    #[track_caller]
    pub(crate) fn objects(self) -> Vec<Value> {
        let out = self.ok();
        out.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// The binary, with nothing of our environment that it listens to.
pub(crate) fn fanfare(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    for (name, _) in std::env::vars() {
        if name.starts_with("FANFARE_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub(crate) fn run(mut command: Command) -> Ended {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Running::new(child).end()
}

/// The same where nothing may be said for minutes.
pub(crate) fn run_for_long(command: Command) -> Ended {
    Running::start(command).end_within(LONG_LIMIT)
}

/// A process whose output is read as it comes.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
}

impl Running {
    /// Takes over a child with piped output.
    pub(crate) fn new(mut child: Child) -> Self {
        let out = lines(child.stdout.take().unwrap());
        let err = lines(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    /// Starts a command.
    pub(crate) fn start(mut command: Command) -> Self {
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self::new(piped.spawn().unwrap())
    }

    /// Its standard input.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// The next line that it prints.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.out.recv_timeout(LIMIT).expect("a line in time")
    }

    /// Reads until a line contains `text`, and answers it.
    #[track_caller]
    pub(crate) fn line_with(&self, text: &str) -> String {
        loop {
            let line = self.line();
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Reads what it says of itself until a line contains `text`, and answers that.
    #[track_caller]
    pub(crate) fn error_with(&self, text: &str) -> String {
        loop {
            let line = self.err.recv_timeout(LIMIT).expect("a line in time");
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let killed = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(killed.unwrap().success());
    }

    /// Ends it at once.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(self) -> Ended {
        self.end_within(LIMIT)
    }

    /// The same, in so long between two lines.
    #[track_caller]
    pub(crate) fn end_within(mut self, limit: Duration) -> Ended {
        // Both pipes close when it ends; a process that hangs is found by the first.
        let out = collect(&self.out, limit);
        let err = collect(&self.err, limit);
        let status: ExitStatus = self.child.wait().unwrap();
        Ended {
            code: status.code().unwrap_or(-1),
            out,
            err,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(lines: &Receiver<String>, limit: Duration) -> String {
    let mut all = String::new();
    loop {
        match lines.recv_timeout(limit) {
            Ok(line) => {
                all.push_str(&line);
                all.push('\n');
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return all,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("no end in time: {all}"),
        }
    }
}

fn lines(pipe: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = sync_channel(100_000);
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}

/// A server on a free port.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) process: Running,
    pub(crate) url: String,
    /// Where it listens again, if it may be started again.
    ports: Option<Ports>,
}

impl Server {
    /// On a backend of its own in memory.
    pub(crate) fn in_memory() -> Self {
        Self::start(&["--backend", "memory:", "--listen", "127.0.0.1:0"])
    }

    /// On a database in `dir`.
    pub(crate) fn on_disk(dir: &Path) -> Self {
        Self::on_disk_at(dir, Ports::claim().unwrap())
    }

    fn on_disk_at(dir: &Path, ports: Ports) -> Self {
        let listen = format!("127.0.0.1:{}", ports.first());
        let dir = dir.to_str().unwrap();
        Self {
            ports: Some(ports),
            ..Self::start(&["--data-dir", dir, "--listen", &listen])
        }
    }

    /// Kills it without warning and starts it again on the same database and port.
    pub(crate) fn kill_and_restart(self, dir: &Path) -> Self {
        self.process.kill();
        Self::on_disk_at(dir, self.ports.unwrap())
    }

    /// With these options of `serve`.
    pub(crate) fn start(options: &[&str]) -> Self {
        let args: Vec<_> = ["serve"].iter().chain(options).copied().collect();
        let process = Running::start(fanfare(&args));
        let line = process.line_with("listening on ");
        let url = line.strip_prefix("listening on ").unwrap().to_owned();
        Self {
            process,
            url,
            ports: None,
        }
    }

    /// Address and port.
    pub(crate) fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    /// A command that talks to it.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = fanfare(args);
        command.env("FANFARE_SERVER", &self.url);
        command
    }

    /// Runs a command that talks to it.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        run(self.command(args))
    }

    /// Runs a command with standard input.
    pub(crate) fn run_with_input(&self, args: &[&str], input: &str) -> Ended {
        let mut command = self.command(args);
        command.stdin(Stdio::piped());
        let mut running = Running::start(command);
        let mut stdin = running.stdin();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        running.end()
    }

    /// POSTs JSON, as a member in another language does.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let url = format!("{}{path}", self.url);
            let http = reqwest::Client::builder().no_proxy().build().unwrap();
            let response = http.post(url).json(body).send().await.unwrap();
            assert!(response.status().is_success(), "{response:?}");
            response.json().await.unwrap()
        })
    }
}
