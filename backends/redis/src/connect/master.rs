//! Which server to connect to: the one of the URL, or the one that a cluster or sentinels name. That
//! is asked for each new connection, and nothing else: a stream with all that belongs to it is on one
//! server, so that commands need no routing.

use fanfare_core::error::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisError, RedisResult};

use super::cluster::Cluster;
#[cfg(not(feature = "tls"))]
use super::plain::Clients;
use super::sentinel::Sentinel;
#[cfg(feature = "tls")]
use super::tls::Clients;
use crate::config::RedisConfig;
use crate::error::map;

/// Who knows.
pub(super) enum Master {
    Fixed(Box<Client>),
    Cluster(Box<Cluster>),
    Sentinel(Box<Sentinel>),
}

impl Master {
    pub(super) fn of(config: &RedisConfig) -> Result<Self> {
        let clients = Clients::of(config)?;
        match config.url.split_once(':').map(|(scheme, _)| scheme) {
            Some("redis+cluster" | "rediss+cluster") => {
                allowed(cfg!(feature = "cluster"), "cluster")?;
                Ok(Self::Cluster(Box::new(Cluster::new(clients, config)?)))
            }
            Some("redis+sentinel" | "rediss+sentinel") => {
                allowed(cfg!(feature = "sentinel"), "sentinel")?;
                Ok(Self::Sentinel(Box::new(Sentinel::new(clients, config)?)))
            }
            _ => {
                let server = config.url.as_str().into_connection_info().map_err(map)?;
                let client = clients.make(server).map_err(map)?;
                Ok(Self::Fixed(Box::new(client)))
            }
        }
    }

    /// The server that has the stream now.
    pub(super) async fn find(&self) -> RedisResult<Client> {
        match self {
            Self::Fixed(client) => Ok(Client::clone(client)),
            Self::Cluster(cluster) => cluster.find().await,
            Self::Sentinel(sentinel) => sentinel.find().await,
        }
    }

    /// Every server that may have a stream now.
    pub(super) async fn all(&self) -> RedisResult<Vec<Client>> {
        match self {
            Self::Cluster(cluster) => cluster.all().await,
            _ => Ok(vec![self.find().await?]),
        }
    }

    /// Connects to it; answers its address too.
    pub(super) async fn connect(
        &self,
        settings: &AsyncConnectionConfig,
    ) -> RedisResult<(String, MultiplexedConnection)> {
        let client = self.find().await?;
        let connecting = client.get_multiplexed_async_connection_with_config(settings);
        let mut connection = connecting.await?;
        if matches!(self, Self::Sentinel(_)) {
            Sentinel::check(&mut connection).await?;
        }
        Ok((client.get_connection_info().addr().to_string(), connection))
    }

    /// Hears why a connection is of no more use: it may say where the stream went.
    pub(super) fn note(&self, error: &RedisError) {
        if let Self::Cluster(cluster) = self {
            cluster.note(error);
        }
    }

    /// Whether it is always the one of the URL.
    pub(super) fn is_fixed(&self) -> bool {
        matches!(self, Self::Fixed(_))
    }
}

/// Nothing was asked of the one that has the stream.
pub(super) fn refused(why: &'static str) -> RedisError {
    std::io::Error::new(std::io::ErrorKind::ConnectionRefused, why).into()
}

fn allowed(is: bool, feature: &str) -> Result<()> {
    if is {
        return Ok(());
    }
    let text =
        format!("this build opens no such URL: it needs the feature `{feature}` of fanfare-redis");
    Err(Error::new(ErrorKind::Unsupported, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_the_feature_names_it() {
        let error = allowed(false, "cluster").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("`cluster`"));
    }
}
