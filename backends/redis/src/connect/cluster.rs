//! The server of a cluster that has the stream's slot. All keys of a stream hash to one slot, so
//! that it is one server that moves at times: by a failover, or because somebody moves the slot.
//! While a slot is on its way, its two servers refuse every script of ours, whose second key, the
//! prefix, is nowhere: nothing is done by half.

use std::ops::RangeInclusive;

use fanfare_core::error::{Error, Result};
use parking_lot::Mutex;
use redis::{
    Client, ConnectionAddr, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, Value,
};

#[cfg(not(feature = "tls"))]
use super::plain::Clients;
use super::several::{Hosts, Several};
#[cfg(feature = "tls")]
use super::tls::Clients;
use crate::config::RedisConfig;

/// Redis's port.
const PORT: u16 = 6379;

/// Of a cluster, all of which some master has.
const SLOTS: usize = 16_384;

/// The cluster.
pub(super) struct Cluster {
    servers: Several,
    question: Pipeline,
    /// Where a server said that the slot is.
    moved: Mutex<Option<ConnectionAddr>>,
}

impl Cluster {
    /// `redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT`
    pub(super) fn new(clients: Clients, config: &RedisConfig) -> Result<Self> {
        let hosts = Hosts::parse(&config.url, PORT)?;
        if !matches!(hosts.path[..], [] | ["0"]) {
            let detail = "a cluster has no databases: nothing stands behind the servers";
            return Err(Error::invalid("/backend", detail));
        }
        let mut question = redis::pipe();
        for key in [&config.stream, &config.prefix()] {
            question.cmd("CLUSTER").arg("KEYSLOT").arg(key);
        }
        question.cmd("CLUSTER").arg("SLOTS");
        Ok(Self {
            servers: Several::new(clients, config, hosts.servers)?,
            question,
            moved: Mutex::default(),
        })
    }

    /// The server that has the slot now.
    pub(super) async fn find(&self) -> RedisResult<Client> {
        let told = self.moved.lock().take();
        let master = match told {
            Some(told) => told,
            None => self.owner().await?,
        };
        self.servers.client(master, self.servers.like())
    }

    /// Goes where the answer says next time.
    pub(super) fn note(&self, error: &RedisError) {
        let told = error.redirect_node().and_then(|(told, _)| {
            let (host, port) = told.rsplit_once(':')?;
            Some((host.to_owned(), port.parse().ok()?))
        });
        // Without a host it means its own, which the others know.
        if let Some((host, port)) = told.filter(|(host, _)| !host.is_empty()) {
            *self.moved.lock() = Some(self.servers.address(host, port));
        }
    }

    /// Every master. A server that has just met the others may know of some only: another one is asked.
    pub(super) async fn all(&self) -> RedisResult<Vec<Client>> {
        let understand = |asked: &ConnectionAddr, answer| {
            let (_, ranges) = self.read(asked, answer)?;
            is_whole(&ranges)
                .then_some(ranges)
                .ok_or(RedisError::from(PARTIAL))
        };
        let ranges = self.servers.ask(&self.question, understand).await?;
        let mut masters: Vec<ConnectionAddr> = Vec::new();
        for master in ranges
            .into_iter()
            .filter_map(|(_, servers)| servers.into_iter().next())
        {
            if !masters.contains(&master) {
                masters.push(master);
            }
        }
        let client = |master| self.servers.client(master, self.servers.like());
        masters.into_iter().map(client).collect()
    }

    async fn owner(&self) -> RedisResult<ConnectionAddr> {
        let understand = |asked: &ConnectionAddr, answer| {
            let (slot, ranges) = self.read(asked, answer)?;
            let owner = ranges.iter().find(|(slots, _)| slots.contains(&slot));
            let owner = owner.and_then(|(_, servers)| servers.first()).cloned();
            let all = ranges.into_iter().flat_map(|(_, servers)| servers);
            Ok((owner.ok_or(RedisError::from(NOBODY))?, all.collect()))
        };
        let (owner, all) = self.servers.ask(&self.question, understand).await?;
        self.servers.learn(all);
        Ok(owner)
    }

    /// The stream's slot, and who has which.
    fn read(&self, asked: &ConnectionAddr, answer: Vec<Value>) -> RedisResult<(u16, Vec<Range>)> {
        let [stream, prefix, ranges] = <[Value; 3]>::try_from(answer).map_err(|_| odd())?;
        let slot = u16::from_redis_value(stream)?;
        if slot != u16::from_redis_value(prefix)? {
            return Err(RedisError::from(APART));
        }
        let ranges = Vec::<Vec<Value>>::from_redis_value(ranges)?.into_iter();
        let ranges = ranges.map(|range| self.range(asked, range));
        Ok((slot, ranges.collect::<RedisResult<_>>()?))
    }

    /// A range as `CLUSTER SLOTS` tells it: first slot, last slot, the master, its replicas.
    fn range(&self, asked: &ConnectionAddr, told: Vec<Value>) -> RedisResult<Range> {
        let mut parts = told.into_iter();
        let mut end =
            || u16::from_redis_value(parts.next().ok_or_else(odd)?).map_err(RedisError::from);
        let slots = end()?..=end()?;
        let servers = parts.map(|told| self.server(asked, told));
        Ok((slots, servers.collect::<RedisResult<_>>()?))
    }

    /// A server of it: host, port and more. One that does not know its own host means the one that
    /// was asked.
    fn server(&self, asked: &ConnectionAddr, told: Value) -> RedisResult<ConnectionAddr> {
        let mut parts = Vec::<Value>::from_redis_value(told)?.into_iter();
        let mut next = || parts.next().ok_or_else(odd);
        let host = Option::<String>::from_redis_value(next()?)?;
        let port = u16::from_redis_value(next()?)?;
        let host = host.filter(|host| !host.is_empty() && host != "?");
        let (ConnectionAddr::Tcp(asked, _) | ConnectionAddr::TcpTls { host: asked, .. }) = asked
        else {
            return Err(odd());
        };
        Ok(self
            .servers
            .address(host.unwrap_or_else(|| asked.clone()), port))
    }
}

type Range = (RangeInclusive<u16>, Vec<ConnectionAddr>);

/// Whether every slot is some server's.
fn is_whole(ranges: &[Range]) -> bool {
    ranges.iter().map(|(slots, _)| slots.len()).sum::<usize>() == SLOTS
}

/// A brace in the name of the stream is not closed, or closed at once.
const APART: (ErrorKind, &str) = (
    ErrorKind::InvalidClientConfig,
    "the braces in the name of the stream keep its keys apart",
);
const NOBODY: (ErrorKind, &str) = (
    ErrorKind::ClusterConnectionNotFound,
    "no server of the cluster has the slot of the stream",
);
const PARTIAL: (ErrorKind, &str) = (
    ErrorKind::ClusterConnectionNotFound,
    "a server of the cluster does not know who has all of its slots",
);

fn odd() -> RedisError {
    let text = "unexpected answer to CLUSTER SLOTS";
    RedisError::from((ErrorKind::UnexpectedReturnType, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_misses_a_master_does_not_know_all() {
        let at = |slots| (slots, Vec::new());
        assert!(is_whole(&[
            at(0..=5_460),
            at(5_461..=10_921),
            at(10_922..=16_383)
        ]));
        assert!(!is_whole(&[at(0..=5_460), at(10_922..=16_383)]));
    }
}
