//! The client of a build without TLS.

use fanfare_core::error::{Error, ErrorKind, Result};

use crate::config::RedisConfig;
use crate::error::map;

pub(super) fn client(config: &RedisConfig) -> Result<redis::Client> {
    if config.url.starts_with("rediss:") {
        let text = "this build has no TLS: it needs the feature `tls` of fanfare-redis";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    redis::Client::open(config.url.as_str()).map_err(map)
}
