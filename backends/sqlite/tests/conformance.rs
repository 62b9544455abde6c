//! The published suite against the embedded durable backend.

use std::sync::Arc;

use async_trait::async_trait;
use fanfare_conformance::Target;
use fanfare_core::Result;
use fanfare_core::backend::Backend;
use fanfare_sqlite::{SqliteBackend, SqliteConfig};
use tempfile::TempDir;

/// Every stream is a database in one directory.
#[derive(Debug)]
struct Sqlite(TempDir);

impl Sqlite {
    fn config(&self, stream: &str) -> SqliteConfig {
        SqliteConfig {
            stream: stream.into(),
            reserve_bytes: 64 * 1024,
            ..SqliteConfig::new(self.0.path().join(stream))
        }
    }
}

#[async_trait]
impl Target for Sqlite {
    fn name(&self) -> String {
        "sqlite".into()
    }

    async fn open(&self, stream: &str) -> Result<Arc<dyn Backend>> {
        Ok(SqliteBackend::open(self.config(stream)).await?)
    }

    async fn open_bounded(&self, stream: &str, bytes: u64) -> Option<Result<Arc<dyn Backend>>> {
        let config = SqliteConfig {
            // An empty database has pages of its own.
            max_bytes: Some(bytes + 128 * 1024),
            ..self.config(stream)
        };
        let opened = SqliteBackend::open(config).await;
        Some(opened.map(|backend| backend as Arc<dyn Backend>))
    }
}

fanfare_conformance::suite!(Sqlite(tempfile::tempdir().unwrap()));
