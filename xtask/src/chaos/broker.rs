//! The broker behind the servers: a private one on a port and in a directory of its own, to be killed,
//! stopped, continued, and started again on the same data. What differs between the engines stands in
//! a file each below `broker/`.

mod amqp;
mod nats;
#[path = "../../../crates/conformance/src/broker/port.rs"]
#[expect(unreachable_pub, reason = "public where it belongs")]
mod port;
mod postgres;
mod redis;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

pub(super) use port::Ports;

use super::chance;
use crate::Result;
use crate::command::{self, Watchdog};

/// How long a broker may take to answer, its recovery included.
const START: Duration = Duration::from_mins(1);
/// How long killed processes may take to go.
const GONE: Duration = Duration::from_secs(5);
/// How long one question to a starting broker may take.
const PROBE: Duration = Duration::from_millis(300);
/// Between two looks at one that starts or dies.
const LOOK: Duration = Duration::from_millis(5);

/// What becomes of an acknowledged write when the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeps {
    /// It is on the disk.
    Everything,
    /// It is gone: what a checker must find out.
    Nothing,
}

/// What can be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Stream,
    Groups,
}

/// A kind of broker.
#[derive(Debug)]
pub(super) struct Engine {
    /// As in `chaos <name>` and in Debian's packages.
    pub(super) program: &'static str,
    /// What it says about its version; an error where it is not there.
    pub(super) version: fn() -> Result<String>,
    /// How it is set for [`Keeps::Everything`], for the record of a campaign.
    pub(super) setting: &'static str,
    /// How long after it was made something is lost by a kill all the same.
    pub(super) young: Duration,
    /// How many events of a subscription it may double when it is killed.
    pub(super) copies: u64,
    /// Makes an empty directory ready, once.
    prepare: fn(&Path) -> Result,
    /// Starts it in the foreground on this directory and port. The next two ports are its own too.
    command: fn(&Path, u16, Keeps) -> Command,
    /// Whether it answers.
    ready: fn(SocketAddr) -> bool,
    /// Deletes the stream of the servers, or what is kept of their subscriptions.
    delete: fn(SocketAddr, Kept) -> Result,
    /// How servers reach it at this address.
    pub(super) url: fn(SocketAddr) -> String,
}

impl Engine {
    /// The engine behind this backend; none where there is no broker.
    pub(super) fn of(backend: &str) -> Option<&'static Self> {
        match backend {
            "redis" => Some(&redis::ENGINE),
            "postgres" => Some(&postgres::ENGINE),
            "nats" => Some(&nats::ENGINE),
            "amqp" => Some(&amqp::ENGINE),
            _ => None,
        }
    }
}

/// A running broker, or one that was just killed.
#[derive(Debug)]
pub(super) struct Broker {
    engine: &'static Engine,
    keeps: Keeps,
    dir: PathBuf,
    log: PathBuf,
    ports: Ports,
    child: Option<Child>,
}

impl Broker {
    /// Starts one on an empty directory; what it prints goes to `log`.
    pub(super) fn start(
        engine: &'static Engine,
        keeps: Keeps,
        dir: &Path,
        log: &Path,
    ) -> Result<Self> {
        fs::create_dir_all(dir)?;
        (engine.prepare)(dir)?;
        let mut broker = Self {
            engine,
            keeps,
            dir: dir.into(),
            log: log.into(),
            ports: Ports::claim()?,
            child: None,
        };
        broker.restart()?;
        Ok(broker)
    }

    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.first()))
    }

    /// `kill -9` of the process and all that it started, gone when this returns; answers when it was.
    pub(super) fn kill(&mut self) -> Result<u64> {
        let Some(mut child) = self.child.take() else {
            return Ok(chance::now());
        };
        let family = descendants(child.id());
        let moment = chance::now();
        child.kill()?;
        // Those who noticed by themselves are gone already.
        let _ = signal(Signal::KILL, &family);
        child.wait()?;
        let watch = Watchdog::over(GONE);
        while family.iter().any(|process| runs(*process)) {
            if watch.left().is_zero() {
                return Err("killed processes of the broker did not go".into());
            }
            chance::pause(LOOK);
        }
        Ok(moment)
    }

    /// `SIGSTOP`: it holds its connections and answers nothing.
    pub(super) fn stop(&self) -> Result {
        self.signal(Signal::STOP)
    }

    /// `SIGCONT` after [`Broker::stop`].
    pub(super) fn go_on(&self) -> Result {
        self.signal(Signal::CONT)
    }

    /// To the process first, so that it has no more children, and then to those.
    fn signal(&self, what: Signal) -> Result {
        let child = self.child.as_ref().ok_or("the broker does not run")?;
        signal(what, &[child.id()])?;
        // One of them may end meanwhile.
        let _ = signal(what, &descendants(child.id()));
        Ok(())
    }

    /// Deletes something behind the servers' back.
    pub(super) fn delete(&self, kept: Kept) -> Result {
        (self.engine.delete)(self.address(), kept)
    }

    /// Starts it on the same port and data, and waits until it answers. One that ends at once, because
    /// something of its predecessor is still there, is started again.
    pub(super) fn restart(&mut self) -> Result {
        let watch = Watchdog::over(START);
        while !watch.left().is_zero() {
            if !self.runs()? {
                self.child = Some(self.spawn()?);
            }
            if (self.engine.ready)(self.address()) {
                return Ok(());
            }
            chance::pause(LOOK);
        }
        let (program, log) = (self.engine.program, self.log.display());
        Err(format!("{program} does not answer, see {log}").into())
    }

    /// Starts it again whenever it has died by itself, and answers how often that was.
    pub(super) fn keep_up(&mut self, over: &AtomicBool) -> Result<u64> {
        let mut died = 0;
        while !over.load(Ordering::Relaxed) {
            if !self.runs()? {
                died += 1;
                self.restart()?;
            }
            chance::pause(LOOK);
        }
        Ok(died)
    }

    fn spawn(&self) -> Result<Child> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = (self.engine.command)(&self.dir, self.ports.first(), self.keeps);
        command.stdin(Stdio::null()).stderr(log.try_clone()?);
        let program = self.engine.program;
        let child = command.stdout(log).spawn();
        child.map_err(|error| format!("{program}: {error}").into())
    }

    fn runs(&mut self) -> Result<bool> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?.is_none()),
            None => Ok(false),
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Its children, their children, and so on.
fn descendants(eldest: u32) -> Vec<u32> {
    let mut family = vec![eldest];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        let children = children.unwrap_or_default();
        let children = children.split_whitespace();
        family.extend(children.filter_map(|id| id.parse::<u32>().ok()));
        at += 1;
    }
    family.split_off(1)
}

/// Whether it is there and not just waiting to be asked how it ended.
fn runs(process: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name before the state is in parentheses and may hold anything.
    let state = stat.rsplit_once(") ").map_or("X", |(_, rest)| rest);
    !state.starts_with(['Z', 'X'])
}

/// To every one of them; fails if that did not reach one.
fn signal(what: Signal, processes: &[u32]) -> Result {
    let mut reached = Ok(());
    for process in processes {
        let process =
            Pid::from_raw(i32::try_from(*process)?).ok_or("no process has this number")?;
        reached = reached.and(kill_process(process, what));
    }
    Ok(reached?)
}

/// On the path, where Debian keeps servers, or in PostgreSQL's own place.
fn program(name: &str) -> PathBuf {
    crate::brokers::find(name).unwrap_or_else(|| name.into())
}

/// What a program says about its version.
fn says(name: &str) -> Result<String> {
    let mut ask = Command::new(program(name));
    ask.arg("--version");
    Ok(command::output(ask)?.trim().to_owned())
}

/// Whether the answer to `question` begins with `expected`.
fn answers(address: SocketAddr, question: &[u8], expected: &[u8]) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, PROBE)?;
    stream.set_read_timeout(Some(PROBE))?;
    stream.write_all(question)?;
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer)?;
    Ok(answer == expected)
}
