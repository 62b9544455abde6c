//! Connections: one shared and pipelined for commands, replaced when it breaks; others without
//! response timeout for blocking reads. And the few shapes of answers that scripts give. Which
//! server they lead to is [`master`]'s.

mod blocking;
mod cluster;
mod line;
mod master;
#[cfg(not(feature = "tls"))]
mod plain;
mod sentinel;
mod several;
#[cfg(feature = "tls")]
mod tls;

use std::sync::Arc;
use std::time::Duration;

use fanfare_core::error::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisResult, Value};
use tokio::sync::watch;

pub(crate) use self::blocking::Blocking;
use self::line::Line;
use self::master::{Master, refused};
use crate::config::RedisConfig;
use crate::error::{
    first_of, had_ended, is_broken, is_moved, map, not_connected, unconfirmed, unexpected,
    was_begun,
};
use crate::scripts::Script;

/// The oldest server that has all commands used here (`SMISMEMBER`, `XTRIM MINID`).
const OLDEST: (u32, u32) = (6, 2);
/// How often a command follows the stream to another server of a cluster.
const MOVES: usize = 3;
/// Of the time for an answer, what replicas may take; publishes on their way wait for each other.
const WAIT_SHARE: u32 = 4;

/// The way to the server.
pub(crate) struct Wire {
    master: Master,
    pub(crate) config: RedisConfig,
    prefix: String,
    /// Our name in consumer groups.
    pub(crate) consumer: String,
    commands: Line,
    /// Where publishes wait for replicas, so that nothing else does.
    appends: Line,
    /// Where the master was when last connected to.
    at: watch::Sender<String>,
}

/// What is sent in one go.
enum Question<'a> {
    One(&'a Cmd),
    Many(&'a Pipeline),
}

/// How the server keeps what it acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fsync {
    Always,
    Later,
    Unknown,
}

impl Wire {
    /// Connects, and checks that the server can do what is needed.
    pub(crate) async fn open(config: RedisConfig) -> Result<(Arc<Self>, Fsync)> {
        let wire = Arc::new(Self {
            master: Master::of(&config)?,
            prefix: config.prefix(),
            consumer: config.consumer.clone().unwrap_or_else(random_name),
            config,
            commands: Line::default(),
            appends: Line::default(),
            at: watch::Sender::default(),
        });
        wire.check_server().await?;
        let fsync = wire.fsync().await?;
        Ok((wire, fsync))
    }

    /// Whether a replica may take over that nobody waited for.
    pub(crate) fn is_replaced_unseen(&self) -> bool {
        !self.master.is_fixed() && self.config.wait_replicas == 0
    }

    /// The server that has the stream now.
    pub(crate) async fn server(&self) -> RedisResult<redis::Client> {
        self.master.find().await
    }

    /// Every server that may have a stream.
    pub(crate) async fn servers(&self) -> RedisResult<Vec<redis::Client>> {
        self.master.all().await
    }

    /// A key beside the stream.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Runs a command that only reads: once more, where it met a connection that had ended.
    pub(crate) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        let answer = match self.try_run(command).await {
            Err(error) if had_ended(&error) => self.try_run(command).await,
            answer => answer,
        };
        answer.map_err(map)
    }

    /// Runs a command; the error is the client's own.
    pub(crate) async fn try_run<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        self.ask(&self.commands, &Question::One(command)).await
    }

    /// Runs several commands that only read in one round trip, not at once.
    pub(crate) async fn run_all<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T> {
        let answer = match self.try_run_all(pipeline).await {
            Err(error) if had_ended(&error) => self.try_run_all(pipeline).await,
            answer => answer,
        };
        answer.map_err(map)
    }

    /// Runs several commands in one round trip, not at once; the error is the client's own.
    pub(crate) async fn try_run_all<T: FromRedisValue>(
        &self,
        pipeline: &Pipeline,
    ) -> RedisResult<T> {
        self.ask(&self.commands, &Question::Many(pipeline)).await
    }

    /// Runs a script that may be repeated.
    pub(crate) async fn script(&self, script: &Script, arguments: &[Vec<u8>]) -> Result<Value> {
        self.try_script(script, arguments).await.map_err(map)
    }

    /// Runs a script that only looks: like [`Wire::run`].
    pub(crate) async fn look(&self, script: &Script, arguments: &[Vec<u8>]) -> Result<Value> {
        let answer = match self.try_script(script, arguments).await {
            Err(error) if had_ended(&error) => self.try_script(script, arguments).await,
            answer => answer,
        };
        answer.map_err(map)
    }

    /// Runs a script; the error is the client's own.
    pub(crate) async fn try_script(
        &self,
        script: &Script,
        arguments: &[Vec<u8>],
    ) -> RedisResult<Value> {
        let mut command = self.call(script);
        command.arg(arguments);
        self.try_call(script, &command).await
    }

    /// The beginning of a command that runs a script; its arguments follow.
    pub(crate) fn call(&self, script: &Script) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command
            .arg(script.hash())
            .arg(2)
            .arg(&self.config.stream)
            .arg(&self.prefix);
        command
    }

    /// Runs what [`Wire::call`] began.
    pub(crate) async fn try_call(&self, script: &Script, command: &Cmd) -> RedisResult<Value> {
        match self.try_run(command).await {
            Err(error) if is_unknown_script(&error) => {
                // The server was restarted or flushed its scripts.
                self.load(script).await?;
                self.try_run(command).await
            }
            answer => answer,
        }
    }

    async fn load(&self, script: &Script) -> RedisResult<()> {
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(script.text());
        self.try_run::<Value>(&load).await.map(drop)
    }

    /// Runs a script that publishes: where replicas are waited for, until so many have what it found
    /// or wrote. The error is the client's own.
    pub(crate) async fn try_append(&self, script: &Script, command: &Cmd) -> RedisResult<Value> {
        if self.config.wait_replicas == 0 {
            return self.try_call(script, command).await;
        }
        match self.append_and_wait(command).await {
            Err(error) if is_unknown_script(&error) => {
                self.load(script).await?;
                self.append_and_wait(command).await
            }
            answer => answer,
        }
    }

    async fn append_and_wait(&self, command: &Cmd) -> RedisResult<Value> {
        let wanted = self.config.wait_replicas;
        let patience = self.config.response_timeout / WAIT_SHARE;
        let mut all = redis::pipe();
        all.add_command(command.clone());
        // A connection waits for its own writes only: this one comes after those of others, which
        // may have published the same event.
        all.cmd("HINCRBY").arg(self.key("n")).arg("waits").arg(1);
        all.cmd("WAIT")
            .arg(wanted)
            .arg(patience.as_millis().max(1).to_string());
        let asked = self.ask(&self.appends, &Question::Many(&all)).await;
        let (answer, _, confirmed): (Value, Value, usize) = match asked {
            Err(error) if was_begun(&error) => return Err(unconfirmed("nobody", wanted)),
            asked => asked?,
        };
        if confirmed < wanted {
            // Perhaps the others have another master by now.
            self.appends.hang_up(None);
            self.commands.hang_up(None);
            return Err(unconfirmed(confirmed, wanted));
        }
        Ok(answer)
    }

    /// A connection of one's own for reads that block.
    pub(crate) async fn blocking(&self) -> Result<Blocking> {
        let (at, connection) = self.connect(None).await.map_err(map)?;
        Ok(Blocking {
            connection,
            at,
            master: self.at.subscribe(),
            clock: self.config.clock.clone(),
            patience: self.config.response_timeout,
        })
    }

    /// Connects to the master. Where it is another one than before, the other connections are left.
    async fn connect(
        &self,
        response: Option<Duration>,
    ) -> RedisResult<(String, MultiplexedConnection)> {
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.connect_timeout))
            .set_response_timeout(response);
        let (at, connection) = tokio::select! {
            // Large, and rare.
            connected = Box::pin(self.master.connect(&settings)) => connected.map_err(not_connected)?,
            () = self.config.clock.sleep(self.config.connect_timeout) => {
                return Err(refused("no server answered in time"));
            }
        };
        if self.at.send_replace(at.clone()) != at {
            self.commands.hang_up(None);
            self.appends.hang_up(None);
        }
        Ok((at, connection))
    }

    /// Asks on this line.
    async fn ask<T: FromRedisValue>(&self, line: &Line, question: &Question<'_>) -> RedisResult<T> {
        let mut moves = 0;
        loop {
            let connect = async {
                let connected = self.connect(Some(self.config.response_timeout)).await;
                connected.map(|(_, connection)| connection)
            };
            let (number, mut connection) = line.get(connect).await?;
            let answer = match question {
                Question::One(command) => command.query_async(&mut connection).await,
                Question::Many(pipeline) => pipeline.query_async(&mut connection).await,
            };
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => first_of(error),
            };
            if is_broken(&error) {
                self.master.note(&error);
                line.hang_up(Some(number));
            }
            // It was not run there.
            if !is_moved(&error) || moves == MOVES {
                return Err(error);
            }
            moves += 1;
        }
    }

    async fn check_server(&self) -> Result<()> {
        let mut info = redis::cmd("INFO");
        info.arg("server");
        let text: String = self.run(&info).await.map_err(|e| e.during("connect"))?;
        let said = |name: &str| {
            let mut lines = text.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.unwrap_or_default().trim()
        };
        self.check_kind(said("redis_mode")).await?;
        let version = said("redis_version");
        let mut parts = version.split('.').map_while(|part| part.parse().ok());
        let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        if found >= OLDEST {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("redis {version} is too old: 6.2 or later is needed"),
        ))
    }

    /// Whether the URL's scheme is the one for this kind of server.
    async fn check_kind(&self, mode: &str) -> Result<()> {
        let detail = match mode {
            "sentinel" => "the server is a sentinel: its URL begins with redis+sentinel:",
            "cluster" => {
                let mut exists = redis::cmd("EXISTS");
                exists.arg(&self.config.stream);
                match self.try_run::<Value>(&exists).await {
                    Err(error) if is_moved(&error) && self.master.is_fixed() => {
                        "the server is one of a cluster: its URL begins with redis+cluster:"
                    }
                    _ => return Ok(()),
                }
            }
            _ => return Ok(()),
        };
        Err(Error::invalid("/backend", detail))
    }

    async fn fsync(&self) -> Result<Fsync> {
        let mut ask = redis::cmd("CONFIG");
        ask.arg("GET").arg("append*");
        // Managed servers forbid CONFIG: then nobody knows.
        let Ok(pairs) = self.try_run::<Vec<String>>(&ask).await else {
            return Ok(Fsync::Unknown);
        };
        let value = |name: &str| {
            let at = pairs.iter().position(|key| key == name)?;
            pairs.get(at + 1).map(String::as_str)
        };
        Ok(match (value("appendonly"), value("appendfsync")) {
            (Some("yes"), Some("always")) => Fsync::Always,
            (Some(_), _) => Fsync::Later,
            _ => Fsync::Unknown,
        })
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("stream", &self.config.stream)
            .finish_non_exhaustive()
    }
}

fn random_name() -> String {
    let (high, low) = uuid::Uuid::now_v7().as_u64_pair();
    format!("fanfare-{:08x}", (high ^ low) & 0xffff_ffff)
}

fn is_unknown_script(error: &redis::RedisError) -> bool {
    error.code() == Some("NOSCRIPT")
}

/// An answer of a script, taken apart from the front.
pub(crate) struct Answer {
    values: std::vec::IntoIter<Value>,
    of: &'static str,
}

impl Answer {
    pub(crate) fn new(value: Value, of: &'static str) -> Result<Self> {
        match value {
            Value::Array(values) => Ok(Self {
                values: values.into_iter(),
                of,
            }),
            _ => Err(unexpected(of)),
        }
    }

    pub(crate) fn next<T: FromRedisValue>(&mut self) -> Result<T> {
        self.next_if_any()?.ok_or_else(|| unexpected(self.of))
    }

    pub(crate) fn next_if_any<T: FromRedisValue>(&mut self) -> Result<Option<T>> {
        let Some(value) = self.values.next() else {
            return Ok(None);
        };
        let read = T::from_redis_value(value);
        read.map(Some).map_err(|_| unexpected(self.of))
    }

    /// A position as the scripts write it.
    pub(crate) fn next_position(&mut self) -> Result<u128> {
        let text: String = self.next()?;
        crate::place::from_hex(&text).ok_or_else(|| unexpected(self.of))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values.len() == 0
    }
}

/// Arguments of a script.
#[derive(Default)]
pub(crate) struct Arguments(Vec<Vec<u8>>);

impl Arguments {
    pub(crate) fn text(mut self, text: impl AsRef<str>) -> Self {
        self.push(text.as_ref().as_bytes().to_vec());
        self
    }

    pub(crate) fn number(self, number: impl std::fmt::Display) -> Self {
        self.text(format!("{number}"))
    }

    pub(crate) fn flag(self, flag: bool) -> Self {
        self.text(if flag { "1" } else { "0" })
    }

    pub(crate) fn position(self, position: u128) -> Self {
        self.text(crate::place::hex(position))
    }

    pub(crate) fn bytes(mut self, bytes: Vec<u8>) -> Self {
        self.push(bytes);
        self
    }

    pub(crate) fn push(&mut self, bytes: Vec<u8>) {
        self.0.push(bytes);
    }
}

impl std::ops::Deref for Arguments {
    type Target = [Vec<u8>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}
