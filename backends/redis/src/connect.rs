//! Connections: one shared and pipelined for commands, replaced when it breaks; others without
//! response timeout for blocking reads. And the few shapes of answers that scripts give.

#[cfg(not(feature = "tls"))]
mod plain;
#[cfg(feature = "tls")]
mod tls;

use std::sync::Arc;

use fanfare_core::error::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisResult, Value};

#[cfg(not(feature = "tls"))]
use self::plain::client;
#[cfg(feature = "tls")]
use self::tls::client;
use crate::config::RedisConfig;
use crate::error::{had_ended, is_broken, map, not_connected, unexpected};
use crate::scripts::Script;

/// The oldest server that has all commands used here (`SMISMEMBER`, `XTRIM MINID`).
const OLDEST: (u32, u32) = (6, 2);

/// The way to the server.
pub(crate) struct Wire {
    client: redis::Client,
    pub(crate) config: RedisConfig,
    prefix: String,
    /// Our name in consumer groups.
    pub(crate) consumer: String,
    shared: Mutex<Option<(u64, MultiplexedConnection)>>,
    connecting: tokio::sync::Mutex<u64>,
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
        let client = client(&config)?;
        let wire = Arc::new(Self {
            client,
            prefix: config.prefix(),
            consumer: config.consumer.clone().unwrap_or_else(random_name),
            config,
            shared: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(0),
        });
        wire.check_version().await?;
        let fsync = wire.fsync().await?;
        Ok((wire, fsync))
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
        let (number, mut connection) = self.connection().await?;
        let answer = command.query_async(&mut connection).await;
        self.judge(number, answer)
    }

    /// Runs several commands that only read in one round trip, not at once.
    pub(crate) async fn run_all<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T> {
        let answer = match self.try_run_all(pipeline).await {
            Err(error) if had_ended(&error) => self.try_run_all(pipeline).await,
            answer => answer,
        };
        answer.map_err(map)
    }

    async fn try_run_all<T: FromRedisValue>(&self, pipeline: &Pipeline) -> RedisResult<T> {
        let (number, mut connection) = self.connection().await?;
        let answer = pipeline.query_async(&mut connection).await;
        self.judge(number, answer)
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
                let mut load = redis::cmd("SCRIPT");
                load.arg("LOAD").arg(script.text());
                self.try_run::<Value>(&load).await?;
                self.try_run(command).await
            }
            answer => answer,
        }
    }

    /// A connection of one's own for reads that block.
    pub(crate) async fn blocking(&self) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.connect_timeout))
            .set_response_timeout(None);
        self.client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(map)
    }

    async fn connection(&self) -> RedisResult<(u64, MultiplexedConnection)> {
        if let Some(there) = self.shared.lock().clone() {
            return Ok(there);
        }
        let mut number = self.connecting.lock().await;
        if let Some(there) = self.shared.lock().clone() {
            return Ok(there);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.connect_timeout))
            .set_response_timeout(Some(self.config.response_timeout));
        let connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(not_connected)?;
        *number += 1;
        *self.shared.lock() = Some((*number, connection.clone()));
        Ok((*number, connection))
    }

    /// Drops the shared connection when it turns out to be broken.
    fn judge<T>(&self, number: u64, answer: RedisResult<T>) -> RedisResult<T> {
        if answer.as_ref().err().is_some_and(is_broken) {
            let mut shared = self.shared.lock();
            if shared
                .as_ref()
                .is_some_and(|(current, _)| *current == number)
            {
                *shared = None;
            }
        }
        answer
    }

    async fn check_version(&self) -> Result<()> {
        let mut info = redis::cmd("INFO");
        info.arg("server");
        let text: String = self.run(&info).await.map_err(|e| e.during("connect"))?;
        let version = text
            .lines()
            .find_map(|line| line.strip_prefix("redis_version:"));
        let version = version.unwrap_or_default().trim();
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
