//! The published suite against a real rabbitmq-server.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_amqp::{AmqpBackend, AmqpConfig};
use fanfare_conformance::broker::{Broker, Durability, Proxy, Server, rabbitmq};
use fanfare_conformance::{Breakable, Target};
use fanfare_core::backend::Backend;
use fanfare_core::error::{Error, ErrorKind, Result};
use lapin::options::{ConfirmSelectOptions, QueueDeleteOptions};
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::sync::OnceCell;

#[derive(Debug, Default)]
struct RabbitMq {
    server: OnceCell<Server>,
}

impl RabbitMq {
    async fn server(&self) -> Result<&Server> {
        let start = || async { Server::open(rabbitmq(), Durability::Periodic).await };
        let server = self.server.get_or_try_init(start).await;
        server.map_err(|e| Error::new(ErrorKind::Unavailable, "no rabbitmq").because(e))
    }

    /// A channel of nobody's, for what others may do.
    async fn stranger(&self) -> lapin::Result<Channel> {
        let url = self.server().await.map(Server::url).unwrap_or_default();
        let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
        connection.create_channel().await
    }

    async fn write(&self, stream: &str, bytes: &[u8]) -> lapin::Result<()> {
        let channel = self.stranger().await?;
        let options = ConfirmSelectOptions::default();
        channel.confirm_select(options).await?;
        let (options, properties) = Default::default();
        let key = "from.elsewhere".into();
        let sent = channel.basic_publish(stream.into(), key, options, bytes, properties);
        sent.await?.await.map(drop)
    }

    async fn delete(&self, stream: &str) -> lapin::Result<()> {
        let channel = self.stranger().await?;
        let queue = format!("{stream}.s.all");
        let options = QueueDeleteOptions::default();
        channel.queue_delete(queue.into(), options).await.map(drop)
    }

    /// Through a proxy of its own, and impatient.
    async fn far(&self, stream: &str, broker: &Broker) -> Result<Breakable> {
        let proxy = Proxy::start(broker.address()).await;
        let proxy = proxy.map_err(|e| Error::new(ErrorKind::Unavailable, "no proxy").because(e))?;
        let config = AmqpConfig {
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(3),
            // Before the bus does, which then could only say that it does not know.
            publish_timeout: Duration::from_millis(1_500),
            ..AmqpConfig::new(broker.url_at(proxy.address()), stream)
        };
        Ok(Breakable {
            backend: AmqpBackend::open(config).await?,
            line: Arc::new(proxy),
        })
    }
}

#[async_trait]
impl Target for RabbitMq {
    fn name(&self) -> String {
        "amqp".into()
    }

    async fn open(&self, stream: &str) -> Result<Arc<dyn Backend>> {
        let url = self.server().await?.url();
        Ok(AmqpBackend::open(AmqpConfig::new(url, stream)).await?)
    }

    async fn write_past(&self, stream: &str, bytes: &[u8]) -> Option<Result<()>> {
        let written = self.write(stream, bytes).await;
        Some(written.map_err(|e| Error::new(ErrorKind::Unavailable, "not written").because(e)))
    }

    async fn lose(&self, stream: &str) -> Option<Result<()>> {
        let lost = self.delete(stream).await;
        Some(lost.map_err(|e| Error::new(ErrorKind::Unavailable, "not deleted").because(e)))
    }

    async fn open_breakable(&self, stream: &str) -> Option<Result<Breakable>> {
        match self.server().await {
            Ok(server) => Some(self.far(stream, server.broker()?).await),
            Err(error) => Some(Err(error)),
        }
    }
}

fanfare_conformance::suite!(RabbitMq::default());
