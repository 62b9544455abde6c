//! The suite's target for Pub/Sub: at most once, so that only what needs no memory of Redis's is run.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_conformance::broker::{Broker, Durability, Proxy, Server, redis};
use fanfare_conformance::{Breakable, Target};
use fanfare_core::backend::Backend;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_redis::{PubSubConfig, RedisConfig, RedisPubSub};
use tokio::sync::OnceCell;

#[derive(Debug, Default)]
pub(crate) struct PubSub {
    server: OnceCell<Server>,
}

impl PubSub {
    async fn server(&self) -> Result<&Server> {
        let start = || async { Server::open(redis(), Durability::Periodic).await };
        let server = self.server.get_or_try_init(start).await;
        server.map_err(|e| unavailable("no redis", e))
    }

    /// Through a proxy of its own, and impatient.
    async fn far(&self, stream: &str, broker: &Broker) -> Result<Breakable> {
        let proxy = Proxy::start(broker.address()).await;
        let proxy = proxy.map_err(|e| unavailable("no proxy", e))?;
        let server = RedisConfig {
            connect_timeout: Duration::from_secs(4),
            response_timeout: Duration::from_secs(3),
            // Before the bus does, which then could only say that it does not know.
            publish_timeout: Duration::from_millis(1_500),
            ..RedisConfig::new(broker.url_at(proxy.address()), stream)
        };
        Ok(Breakable {
            backend: RedisPubSub::open(PubSubConfig::new(server)).await?,
            line: Arc::new(proxy),
        })
    }

    /// As anybody could.
    async fn shout(&self, stream: &str, bytes: &[u8]) -> Result<()> {
        let url = self.server().await?.url();
        let client = redis::Client::open(url).map_err(|e| unavailable("no client", e))?;
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(format!("{stream}:orders.placed")).arg(bytes);
        let settings = crate::patient();
        let connection = client.get_multiplexed_async_connection_with_config(&settings);
        let connection = connection.await;
        let mut connection = connection.map_err(|e| unavailable("no connection", e))?;
        let published = publish.exec_async(&mut connection).await;
        published.map_err(|e| unavailable("no message", e))
    }
}

fn unavailable(what: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Unavailable, what).because(error)
}

#[async_trait]
impl Target for PubSub {
    fn name(&self) -> String {
        "redis, mode pubsub".into()
    }

    async fn open(&self, stream: &str) -> Result<Arc<dyn Backend>> {
        let server = RedisConfig::new(self.server().await?.url(), stream);
        Ok(RedisPubSub::open(PubSubConfig::new(server)).await?)
    }

    async fn write_past(&self, stream: &str, bytes: &[u8]) -> Option<Result<()>> {
        Some(self.shout(stream, bytes).await)
    }

    async fn open_breakable(&self, stream: &str) -> Option<Result<Breakable>> {
        match self.server().await {
            Ok(server) => Some(self.far(stream, server.broker()?).await),
            Err(error) => Some(Err(error)),
        }
    }
}
