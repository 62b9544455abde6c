//! Clients of a build without TLS.

use fanfare_core::error::{Error, ErrorKind, Result};
use redis::{Client, ConnectionInfo, RedisResult};

use crate::config::RedisConfig;

/// Makes them.
pub(super) struct Clients;

impl Clients {
    pub(super) fn of(config: &RedisConfig) -> Result<Self> {
        if config.url.starts_with("rediss") {
            let text = "this build has no TLS: it needs the feature `tls` of fanfare-redis";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        Ok(Self)
    }

    #[expect(clippy::unused_self, reason = "as with TLS")]
    pub(super) fn make(&self, server: ConnectionInfo) -> RedisResult<Client> {
        Client::open(server)
    }
}
