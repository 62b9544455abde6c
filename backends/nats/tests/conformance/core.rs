//! The suite's target for core NATS: at most once, so that only what needs no memory of the server's is
//! run.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_conformance::broker::{Broker, Durability, Proxy, Server, nats};
use fanfare_conformance::{Breakable, Target};
use fanfare_core::backend::Backend;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_nats::{CoreConfig, NatsConfig, NatsCore};
use tokio::sync::OnceCell;

#[derive(Debug, Default)]
pub(crate) struct Core {
    server: OnceCell<Server>,
}

impl Core {
    async fn server(&self) -> Result<&Server> {
        let start = || async { Server::open(nats(), Durability::Periodic).await };
        let server = self.server.get_or_try_init(start).await;
        server.map_err(|e| unavailable("no nats", e))
    }

    /// Through a proxy of its own, and impatient.
    async fn far(&self, stream: &str, broker: &Broker) -> Result<Breakable> {
        let proxy = Proxy::start(broker.address()).await;
        let proxy = proxy.map_err(|e| unavailable("no proxy", e))?;
        let server = NatsConfig {
            connect_timeout: Duration::from_secs(4),
            response_timeout: Duration::from_secs(3),
            // Before the bus does, which then could only say that it does not know.
            publish_timeout: Duration::from_millis(1_500),
            ..NatsConfig::new(broker.url_at(proxy.address()), stream)
        };
        Ok(Breakable {
            backend: NatsCore::open(CoreConfig::new(server)).await?,
            line: Arc::new(proxy),
        })
    }

    /// As anybody could.
    async fn shout(&self, stream: &str, bytes: &[u8]) -> Result<()> {
        let url = self.server().await?.url();
        let client = async_nats::connect(url).await;
        let client = client.map_err(|e| unavailable("no connection", e))?;
        let subject = format!("fanfare.c.{stream}.e.orders.placed");
        let published = client.publish(subject, bytes.to_vec().into()).await;
        published.map_err(|e| unavailable("no message", e))?;
        client
            .flush()
            .await
            .map_err(|e| unavailable("no message", e))
    }
}

fn unavailable(what: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Unavailable, what).because(error)
}

#[async_trait]
impl Target for Core {
    fn name(&self) -> String {
        "nats, mode core".into()
    }

    async fn open(&self, stream: &str) -> Result<Arc<dyn Backend>> {
        let server = NatsConfig::new(self.server().await?.url(), stream);
        Ok(NatsCore::open(CoreConfig::new(server)).await?)
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
