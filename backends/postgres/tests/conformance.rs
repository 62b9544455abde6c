//! The published suite against a real PostgreSQL that flushes every commit.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_conformance::broker::{Broker, Durability, Proxy, Server, postgres};
use fanfare_conformance::{Breakable, Target};
use fanfare_core::backend::Backend;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_postgres::{PostgresBackend, PostgresConfig};
use futures::future::BoxFuture;
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Default)]
struct Postgres {
    server: OnceCell<Server>,
}

impl Postgres {
    async fn server(&self) -> Result<&Server> {
        let start = || async { Server::open(postgres(), Durability::Always).await };
        let server = self.server.get_or_try_init(start).await;
        server.map_err(|e| Error::new(ErrorKind::Unavailable, "no postgres").because(e))
    }

    async fn config(&self, stream: &str) -> Result<PostgresConfig> {
        Ok(PostgresConfig::new(self.server().await?.url(), stream))
    }

    /// As somebody with a connection of their own.
    async fn run(&self, sql: &str) -> Result<(), BoxError> {
        let (client, connection) =
            tokio_postgres::connect(&self.server().await?.url(), NoTls).await?;
        let driving = tokio::spawn(connection);
        client.batch_execute(sql).await?;
        drop(client);
        Ok(driving.await??)
    }

    /// As an application with a connection of its own.
    async fn transaction(
        &self,
        stream: &str,
        events: &[Event],
        end: BoxFuture<'static, bool>,
    ) -> Result<(), BoxError> {
        let backend = PostgresBackend::open(self.config(stream).await?).await?;
        let (mut client, connection) =
            tokio_postgres::connect(&self.server().await?.url(), NoTls).await?;
        let driving = tokio::spawn(connection);
        let transaction = client.transaction().await?;
        backend.publish_in(&transaction, events).await?;
        if end.await {
            transaction.commit().await?;
            backend.committed();
        } else {
            transaction.rollback().await?;
        }
        drop(client);
        driving.await??;
        Ok(backend.close().await?)
    }

    /// Through a proxy of its own, and impatient.
    async fn far(&self, stream: &str, broker: &Broker) -> Result<Breakable> {
        let proxy = Proxy::start(broker.address()).await;
        let proxy = proxy.map_err(|e| Error::new(ErrorKind::Unavailable, "no proxy").because(e))?;
        let config = PostgresConfig {
            url: broker.url_at(proxy.address()),
            connect_timeout: Duration::from_secs(4),
            response_timeout: Duration::from_secs(3),
            // Before the bus does, which then could only say that it does not know.
            publish_timeout: Duration::from_millis(1_500),
            ..self.config(stream).await?
        };
        Ok(Breakable {
            backend: PostgresBackend::open(config).await?,
            line: Arc::new(proxy),
        })
    }
}

#[async_trait]
impl Target for Postgres {
    fn name(&self) -> String {
        "postgres".into()
    }

    async fn open(&self, stream: &str) -> Result<Arc<dyn Backend>> {
        Ok(PostgresBackend::open(self.config(stream).await?).await?)
    }

    async fn transact(
        &self,
        stream: &str,
        events: &[Event],
        end: BoxFuture<'static, bool>,
    ) -> Option<Result<()>> {
        let ended = self.transaction(stream, events, end).await;
        Some(ended.map_err(|e| Error::new(ErrorKind::Internal, "no transaction").because(e)))
    }

    async fn lose(&self, stream: &str) -> Option<Result<()>> {
        let lost = self.run(&format!("TRUNCATE fanfare_{stream}.log")).await;
        Some(lost.map_err(|e| Error::new(ErrorKind::Unavailable, "not deleted").because(e)))
    }

    async fn open_breakable(&self, stream: &str) -> Option<Result<Breakable>> {
        match self.server().await {
            Ok(server) => Some(self.far(stream, server.broker()?).await),
            Err(error) => Some(Err(error)),
        }
    }

    async fn open_bounded(&self, stream: &str, bytes: u64) -> Option<Result<Arc<dyn Backend>>> {
        let opened = async {
            let config = PostgresConfig {
                max_bytes: bytes,
                ..self.config(stream).await?
            };
            let backend: Arc<dyn Backend> = PostgresBackend::open(config).await?;
            Ok(backend)
        };
        Some(opened.await)
    }
}

fanfare_conformance::suite!(Postgres::default());
