//! URLs that name several servers, and asking these in turn until one knows. What is asked, and what
//! an answer means, is the cluster's and the sentinels' own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fanfare_core::error::{Error, Result};
use parking_lot::Mutex;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisError, RedisResult, Value,
};

use super::master::refused;
#[cfg(not(feature = "tls"))]
use super::plain::Clients;
#[cfg(feature = "tls")]
use super::tls::Clients;
use crate::config::RedisConfig;
use crate::error::map;

/// Of the time for connecting, what one server may take that does not answer.
const SHARE: u32 = 3;
/// The most servers that are remembered.
const MOST: usize = 64;

/// A URL's servers, and what follows them.
pub(super) struct Hosts<'a> {
    pub(super) servers: Vec<ConnectionInfo>,
    /// What stands between slashes behind the servers.
    pub(super) path: Vec<&'a str>,
}

impl<'a> Hosts<'a> {
    /// `SCHEME://USER:PASSWORD@HOST:PORT,HOST:PORT/PATH`. Errors never show the password.
    pub(super) fn parse(url: &'a str, default_port: u16) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").unwrap_or((url, ""));
        let scheme = if scheme.starts_with("rediss") {
            "rediss"
        } else {
            "redis"
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), authority),
        };
        let one = |host: &str| {
            // The last colon may be one of an IPv6 address.
            let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
            let port = if has_port {
                String::new()
            } else {
                format!(":{default_port}")
            };
            let url = format!("{scheme}://{user}{host}{port}");
            url.into_connection_info().map_err(map)
        };
        let servers: Result<Vec<_>> = hosts.split(',').map(one).collect();
        Ok(Self {
            servers: servers?,
            path: path.split('/').filter(|part| !part.is_empty()).collect(),
        })
    }
}

/// Servers that may be asked.
pub(super) struct Several {
    clients: Clients,
    /// How long one of them may take to answer.
    patience: Duration,
    /// How to connect to any of them, but for its address.
    like: ConnectionInfo,
    given: Vec<ConnectionAddr>,
    known: Mutex<Vec<ConnectionAddr>>,
    /// Each time somebody else is asked first: the one asked last may have been wrong.
    turn: AtomicUsize,
}

impl Several {
    pub(super) fn new(
        clients: Clients,
        config: &RedisConfig,
        servers: Vec<ConnectionInfo>,
    ) -> Result<Self> {
        let given: Vec<_> = servers.iter().map(|server| server.addr().clone()).collect();
        let like = servers.into_iter().next();
        let like = like.ok_or_else(|| Error::invalid("/backend", "the URL names no server"))?;
        Ok(Self {
            clients,
            patience: config.connect_timeout / SHARE,
            like,
            known: Mutex::new(given.clone()),
            given,
            turn: AtomicUsize::new(0),
        })
    }

    /// The first answer that `understand` takes; else why the last one failed.
    pub(super) async fn ask<T>(
        &self,
        question: &Pipeline,
        understand: impl Fn(&ConnectionAddr, Vec<Value>) -> RedisResult<T>,
    ) -> RedisResult<T> {
        let mut servers = self.known.lock().clone();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % servers.len().max(1);
        servers.rotate_left(turn);
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.patience))
            .set_response_timeout(Some(self.patience));
        let mut failed: Option<RedisError> = None;
        for server in servers {
            let asked = async {
                let client = self.client(server.clone(), &self.like)?;
                let connecting = client.get_multiplexed_async_connection_with_config(&settings);
                let mut connection = connecting.await?;
                question.query_async(&mut connection).await
            };
            match asked.await.and_then(|answer| understand(&server, answer)) {
                Ok(answer) => return Ok(answer),
                // A server that is away says less than one that does not know.
                Err(error) if error.is_io_error() && failed.is_some() => {}
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| refused("no server is known")))
    }

    /// The client of a server at this address, with the names and passwords of `like`.
    pub(super) fn client(
        &self,
        address: ConnectionAddr,
        like: &ConnectionInfo,
    ) -> RedisResult<Client> {
        self.clients.make(like.clone().set_addr(address))
    }

    /// How the URL's servers are connected to.
    pub(super) fn like(&self) -> &ConnectionInfo {
        &self.like
    }

    /// Asks these from now on, and those of the URL.
    pub(super) fn learn(&self, servers: Vec<ConnectionAddr>) {
        let mut known = self.given.clone();
        for server in servers.into_iter().take(MOST) {
            if !known.contains(&server) {
                known.push(server);
            }
        }
        *self.known.lock() = known;
    }

    /// The address of a server that was named by another one.
    pub(super) fn address(&self, host: String, port: u16) -> ConnectionAddr {
        match self.like.addr() {
            ConnectionAddr::TcpTls { insecure, .. } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: *insecure,
                tls_params: None,
            },
            _ => ConnectionAddr::Tcp(host, port),
        }
    }
}

/// The same server with another database, name and password.
pub(super) fn with_user(
    server: ConnectionInfo,
    (user, password): &(Option<String>, Option<String>),
) -> ConnectionInfo {
    let mut settings = RedisConnectionInfo::default();
    if let Some(user) = user {
        settings = settings.set_username(user);
    }
    if let Some(password) = password {
        settings = settings.set_password(password);
    }
    server.set_redis_settings(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_of_a_url_has_its_port_and_the_password_of_all() {
        let url = "redis+sentinel://ada:hun%2Ft@one,two:7000,[::1]/orders/2";
        let hosts = Hosts::parse(url, 26379).unwrap();
        let found: Vec<_> = hosts
            .servers
            .iter()
            .map(|server| server.addr().to_string())
            .collect();
        assert_eq!(found, ["one:26379", "two:7000", "::1:26379"]);
        assert_eq!(hosts.path, ["orders", "2"]);
        for server in hosts.servers {
            assert_eq!(server.redis_settings().password(), Some("hun/t"));
        }
    }

    #[test]
    fn a_url_that_is_none_is_refused_without_its_password() {
        for url in [
            "redis+cluster:",
            "redis+cluster://ada:hunter2@one,",
            "redis+cluster://ada:hunter2@one:x",
        ] {
            let error = Hosts::parse(url, 6379).err().unwrap();
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
