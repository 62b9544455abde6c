//! Private brokers for tests: each on a free port and in a directory of its own, to be killed,
//! stopped, continued and started again on the same data. Several may run at once. Not a way to run
//! a broker for anything else.
//!
//! `FANFARE_TEST_<NAME>_URL` names a server that is used instead of a private one; such a server is
//! never killed.

mod engine;
mod family;
mod port;
mod proxy;
mod redis;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use fanfare_core::clock::Clock;
use parking_lot::Mutex;
use tempfile::TempDir;

pub use engine::{Durability, Engine, nats, postgres, rabbitmq, redis};
pub use port::Ports;
pub use proxy::{Fault, Proxy};
pub use redis::{RedisCluster, RedisSentinels};

/// How long a broker may take to accept connections.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How often a starting broker is asked whether it is ready.
const START_POLL: Duration = Duration::from_millis(20);
/// How much of what it printed is told where it did not start, in bytes.
const LAST_WORDS: usize = 4096;
/// Another program may take a port that was free before the broker does.
const PORT_TRIES: usize = 5;

/// A broker that belongs to one test. It dies with this value.
#[derive(Debug)]
pub struct Broker {
    engine: Engine,
    dir: TempDir,
    ports: Ports,
    durability: Durability,
    child: Mutex<Option<Child>>,
}

impl Broker {
    /// Starts one on an empty directory and waits until it answers.
    pub async fn start(engine: Engine, durability: Durability) -> io::Result<Self> {
        let mut last = None;
        for _ in 0..PORT_TRIES {
            let broker = Self {
                engine,
                dir: tempfile::Builder::new()
                    .prefix("fanfare-broker-")
                    .tempdir()?,
                ports: Ports::claim()?,
                durability,
                child: Mutex::new(None),
            };
            let not_prepared = |error| broker.engine.not_started(error);
            (broker.engine.prepare)(broker.dir()).map_err(not_prepared)?;
            match broker.restart().await {
                Ok(()) => return Ok(broker),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("the broker did not start")))
    }

    /// How clients reach it.
    pub fn url(&self) -> String {
        (self.engine.url)(self.address())
    }

    /// How clients reach it through something that listens elsewhere.
    pub fn url_at(&self, address: SocketAddr) -> String {
        (self.engine.url)(address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.first()))
    }

    /// A port that is its own too, for a second listener.
    pub fn second_port(&self) -> u16 {
        self.ports.first() + 3
    }

    /// Its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `kill -9` of all its processes, and waits until they are gone.
    pub fn kill(&self) -> io::Result<()> {
        let Some(mut child) = self.child.lock().take() else {
            return Ok(());
        };
        let killed = family::kill(child.id());
        child.kill()?;
        child.wait()?;
        killed
    }

    /// `SIGSTOP` of all its processes: it holds its connections and answers nothing.
    pub fn pause(&self) -> io::Result<()> {
        family::pause(self.process()?)
    }

    /// `SIGCONT` after [`Broker::pause`].
    pub fn resume(&self) -> io::Result<()> {
        family::resume(self.process()?)
    }

    /// Starts it again on the same port and data, killing it first where it still runs.
    pub async fn restart(&self) -> io::Result<()> {
        self.kill()?;
        let mut command =
            (self.engine.command)(self.dir.path(), self.ports.first(), self.durability);
        let log = File::create(self.said())?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?);
        let child = command.stderr(log).spawn();
        let child = child.map_err(|error| self.engine.not_started(error))?;
        *self.child.lock() = Some(child);
        self.ready().await
    }

    async fn ready(&self) -> io::Result<()> {
        let clock = Clock::system();
        let until = clock.now() + START_LIMIT;
        while clock.now() < until {
            let ended = match self.child.lock().as_mut() {
                Some(child) => child.try_wait()?,
                None => return Err(io::Error::other("the broker was killed while it started")),
            };
            if let Some(status) = ended {
                let name = self.engine.name;
                let said = std::fs::read(self.said())?;
                let last = said.split_at(said.len().saturating_sub(LAST_WORDS)).1;
                let last = String::from_utf8_lossy(last);
                return Err(io::Error::other(format!("{name} ended, {status}: {last}")));
            }
            if (self.engine.ready)(self.address()) {
                return Ok(());
            }
            clock.sleep(START_POLL).await;
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{} did not answer in time", self.engine.name),
        ))
    }

    /// What it prints.
    fn said(&self) -> PathBuf {
        self.dir.path().join("printed.log")
    }

    fn process(&self) -> io::Result<u32> {
        let child = self.child.lock();
        let running = child.as_ref().map(Child::id);
        running.ok_or_else(|| io::Error::other("the broker does not run"))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Nothing is left to tell if even this fails.
        let _ = self.kill();
    }
}

/// A private broker, or the one that the environment names.
#[derive(Debug)]
pub enum Server {
    /// Ours, to be broken at will.
    Private(Broker),
    /// Somebody's; only its streams are ours.
    Given(String),
}

impl Server {
    /// The private broker, where it is one.
    pub fn broker(&self) -> Option<&Broker> {
        match self {
            Self::Private(broker) => Some(broker),
            Self::Given(_) => None,
        }
    }

    /// The server of `FANFARE_TEST_<NAME>_URL` where that is set, else a private one.
    pub async fn open(engine: Engine, durability: Durability) -> io::Result<Self> {
        let variable = format!("FANFARE_TEST_{}_URL", engine.name.to_ascii_uppercase());
        match std::env::var(variable) {
            Ok(url) if !url.is_empty() => Ok(Self::Given(url)),
            _ => Broker::start(engine, durability).await.map(Self::Private),
        }
    }

    /// How clients reach it.
    pub fn url(&self) -> String {
        match self {
            Self::Private(broker) => broker.url(),
            Self::Given(url) => url.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_private_redis_is_killed_stopped_and_started_again() {
        let broker = Broker::start(redis(), Durability::Always).await.unwrap();
        let other = Broker::start(redis(), Durability::Off).await.unwrap();
        assert_ne!(broker.address(), other.address());
        check(redis(), &broker).await;
    }

    #[tokio::test]
    async fn a_private_postgres_is_killed_stopped_and_started_again() {
        let broker = Broker::start(postgres(), Durability::Always).await.unwrap();
        check(postgres(), &broker).await;
    }

    #[tokio::test]
    async fn a_private_nats_is_killed_stopped_and_started_again() {
        let broker = Broker::start(nats(), Durability::Always).await.unwrap();
        let other = Broker::start(nats(), Durability::Off).await.unwrap();
        assert_ne!(broker.address(), other.address());
        check(nats(), &broker).await;
    }

    #[tokio::test]
    async fn a_private_rabbitmq_is_killed_stopped_and_started_again() {
        let (broker, other) = tokio::join!(
            Broker::start(rabbitmq(), Durability::Always),
            Broker::start(rabbitmq(), Durability::Off),
        );
        let (broker, other) = (broker.unwrap(), other.unwrap());
        assert_ne!(broker.address(), other.address());
        check(rabbitmq(), &broker).await;
    }

    async fn check(engine: Engine, broker: &Broker) {
        assert!((engine.ready)(broker.address()));
        broker.pause().unwrap();
        assert!(!(engine.ready)(broker.address()));
        broker.resume().unwrap();
        broker.kill().unwrap();
        assert!(!(engine.ready)(broker.address()));
        broker.restart().await.unwrap();
        assert!((engine.ready)(broker.address()));
    }

    #[test]
    fn a_program_that_is_missing_is_said_with_what_installs_it() {
        let missing = redis().not_started(io::ErrorKind::NotFound.into());
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        let said = missing.to_string();
        assert!(said.contains("apt-get install") && said.contains("redis-server"));
    }
}
