//! The master that sentinels name. What they say may be old: a server counts as the master when it
//! says so itself.

use fanfare_core::error::{Error, Result};
use redis::aio::MultiplexedConnection;
use redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, Pipeline, RedisError,
    RedisResult, Value,
};

use super::master::refused;
#[cfg(not(feature = "tls"))]
use super::plain::Clients;
use super::several::{Hosts, Several, with_user};
#[cfg(feature = "tls")]
use super::tls::Clients;
use crate::config::RedisConfig;

/// The sentinels' port.
const PORT: u16 = 26379;

/// The sentinels of a service.
pub(super) struct Sentinel {
    sentinels: Several,
    question: Pipeline,
    /// How to connect to the master, but for its address.
    master: ConnectionInfo,
}

impl Sentinel {
    /// `redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/DATABASE`
    pub(super) fn new(clients: Clients, config: &RedisConfig) -> Result<Self> {
        let hosts = Hosts::parse(&config.url, PORT)?;
        let (service, database) = match hosts.path[..] {
            [service] => (service, Some(0)),
            [service, database] => (service, database.parse().ok()),
            _ => ("", None),
        };
        let database = database.ok_or_else(|| {
            let detail = "behind the sentinels stand the service and perhaps a database, as in \
                          redis+sentinel://HOST:26379/SERVICE/0";
            Error::invalid("/backend", detail)
        })?;
        let mut question = redis::pipe();
        question
            .cmd("SENTINEL")
            .arg("GET-MASTER-ADDR-BY-NAME")
            .arg(service);
        let server = hosts.servers.first().cloned();
        let server = server.ok_or_else(|| Error::invalid("/backend", "the URL names no server"))?;
        let settings = server.redis_settings().clone().set_db(database);
        let as_sentinel = |server| with_user(server, &config.sentinel_user);
        let sentinels = hosts.servers.into_iter().map(as_sentinel).collect();
        Ok(Self {
            sentinels: Several::new(clients, config, sentinels)?,
            question,
            master: server.set_redis_settings(settings),
        })
    }

    /// The server that the sentinels name.
    pub(super) async fn find(&self) -> RedisResult<Client> {
        let address = self.named().await?;
        self.sentinels.client(address, &self.master)
    }

    /// Whether the server at the other end is a master by its own word.
    pub(super) async fn check(connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let role: Vec<Value> = redis::cmd("ROLE").query_async(connection).await?;
        match role.first() {
            Some(Value::BulkString(role)) if role == b"master" => Ok(()),
            _ => Err(refused(
                "the server that the sentinels name is not the master",
            )),
        }
    }

    async fn named(&self) -> RedisResult<ConnectionAddr> {
        let understand = |_: &ConnectionAddr, answer: Vec<Value>| {
            let named = answer.into_iter().next().unwrap_or(Value::Nil);
            match Option::<(String, u16)>::from_redis_value(named)? {
                Some((host, port)) => Ok(self.sentinels.address(host, port)),
                None => Err(RedisError::from(UNKNOWN)),
            }
        };
        self.sentinels.ask(&self.question, understand).await
    }
}

const UNKNOWN: (ErrorKind, &str) = (ErrorKind::MasterNameNotFoundBySentinel, "no such service");
