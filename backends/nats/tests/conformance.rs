//! The published suite against a real nats-server: with JetStream, on streams of ours and on streams that
//! are another service's, and at most once without it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_conformance::broker::{Broker, Durability, Proxy, Server, nats};
use fanfare_conformance::{Breakable, Target};
use fanfare_core::backend::Backend;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_nats::{Form, MessageForm, NatsBackend, NatsConfig};
use tokio::sync::OnceCell;

mod conformance {
    pub(super) mod core;
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Default)]
struct Nats {
    /// Whether the streams are another service's.
    foreign: bool,
    server: OnceCell<Server>,
}

impl Nats {
    async fn server(&self) -> Result<&Server> {
        let start = || async { Server::open(nats(), Durability::Periodic).await };
        let server = self.server.get_or_try_init(start).await;
        server.map_err(|e| Error::new(ErrorKind::Unavailable, "no nats").because(e))
    }

    async fn config(&self, stream: &str) -> Result<NatsConfig> {
        let form = if self.foreign {
            MessageForm::preset("cloudevents", stream).map(Form::Messages)
        } else {
            None
        };
        Ok(NatsConfig {
            form: form.unwrap_or_default(),
            ..NatsConfig::new(self.server().await?.url(), stream)
        })
    }

    /// As another service would.
    async fn write(&self, stream: &str, bytes: &[u8]) -> Result<(), BoxError> {
        let client = async_nats::connect(self.server().await?.url()).await?;
        let subject = if self.foreign {
            format!("{stream}.somebody.else")
        } else {
            format!("fanfare.e.{stream}.somebody.else")
        };
        client.request(subject, bytes.to_vec().into()).await?;
        Ok(())
    }

    /// As an operator may.
    async fn delete(&self, stream: &str) -> Result<(), BoxError> {
        let client = async_nats::connect(self.server().await?.url()).await?;
        let delete = if self.foreign {
            format!("$JS.API.STREAM.DELETE.{stream}")
        } else {
            format!("$JS.API.STREAM.DELETE.fanfare_{stream}")
        };
        client.request(delete, "".into()).await?;
        Ok(())
    }

    /// Through a proxy of its own, and impatient.
    async fn far(&self, stream: &str, broker: &Broker) -> Result<Breakable> {
        let proxy = Proxy::start(broker.address()).await;
        let proxy = proxy.map_err(|e| Error::new(ErrorKind::Unavailable, "no proxy").because(e))?;
        let config = NatsConfig {
            url: broker.url_at(proxy.address()),
            connect_timeout: Duration::from_secs(4),
            response_timeout: Duration::from_secs(3),
            // Before the bus does, which then could only say that it does not know.
            publish_timeout: Duration::from_millis(1_500),
            ..self.config(stream).await?
        };
        Ok(Breakable {
            backend: NatsBackend::open(config).await?,
            line: Arc::new(proxy),
        })
    }
}

#[async_trait]
impl Target for Nats {
    fn name(&self) -> String {
        if self.foreign {
            "nats, streams of others".into()
        } else {
            "nats".into()
        }
    }

    async fn open(&self, stream: &str) -> Result<Arc<dyn Backend>> {
        Ok(NatsBackend::open(self.config(stream).await?).await?)
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

    async fn open_bounded(&self, stream: &str, bytes: u64) -> Option<Result<Arc<dyn Backend>>> {
        if self.foreign {
            // Others may still need what is there: nothing is removed.
            return None;
        }
        let opened = async {
            let config = NatsConfig {
                max_bytes: bytes,
                ..self.config(stream).await?
            };
            let backend: Arc<dyn Backend> = NatsBackend::open(config).await?;
            Ok(backend)
        };
        Some(opened.await)
    }
}

#[test]
fn conformance_of_streams() {
    fanfare_conformance::check(Arc::new(Nats::default()));
}

#[test]
fn conformance_of_streams_of_others() {
    let target = Nats {
        foreign: true,
        ..Nats::default()
    };
    fanfare_conformance::check(Arc::new(target));
}

#[test]
fn conformance_of_core() {
    fanfare_conformance::check(Arc::new(conformance::core::Core::default()));
}
