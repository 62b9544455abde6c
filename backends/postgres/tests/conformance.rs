//! The published suite against a real PostgreSQL that flushes every commit.

use std::sync::Arc;

use async_trait::async_trait;
use fanfare_conformance::Target;
use fanfare_conformance::broker::{Durability, Server, postgres};
use fanfare_core::backend::Backend;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_postgres::{PostgresBackend, PostgresConfig};
use tokio::sync::OnceCell;

#[derive(Debug, Default)]
struct Postgres {
    server: OnceCell<Server>,
}

impl Postgres {
    async fn config(&self, stream: &str) -> Result<PostgresConfig> {
        let start = || async { Server::open(postgres(), Durability::Always).await };
        let server = self.server.get_or_try_init(start).await;
        let server =
            server.map_err(|e| Error::new(ErrorKind::Unavailable, "no postgres").because(e))?;
        Ok(PostgresConfig::new(server.url(), stream))
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
