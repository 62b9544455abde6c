//! The published suite against a real redis-server.

use std::sync::Arc;

use async_trait::async_trait;
use fanfare_conformance::Target;
use fanfare_conformance::broker::{Durability, Server, redis};
use fanfare_core::backend::Backend;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_redis::{RedisBackend, RedisConfig};
use tokio::sync::OnceCell;

#[derive(Debug, Default)]
struct Redis {
    server: OnceCell<Server>,
}

impl Redis {
    async fn config(&self, stream: &str) -> Result<RedisConfig> {
        let start = || async { Server::open(redis(), Durability::Periodic).await };
        let server = self.server.get_or_try_init(start).await;
        let server =
            server.map_err(|e| Error::new(ErrorKind::Unavailable, "no redis").because(e))?;
        Ok(RedisConfig::new(server.url(), stream))
    }
}

#[async_trait]
impl Target for Redis {
    fn name(&self) -> String {
        "redis".into()
    }

    async fn open(&self, stream: &str) -> Result<Arc<dyn Backend>> {
        Ok(RedisBackend::open(self.config(stream).await?).await?)
    }

    async fn open_bounded(&self, stream: &str, bytes: u64) -> Option<Result<Arc<dyn Backend>>> {
        let opened = async {
            let config = RedisConfig {
                max_bytes: bytes,
                ..self.config(stream).await?
            };
            let backend: Arc<dyn Backend> = RedisBackend::open(config).await?;
            Ok(backend)
        };
        Some(opened.await)
    }
}

fanfare_conformance::suite!(Redis::default());
