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
struct Sqlite {
    dir: TempDir,
    tail_events: usize,
}

impl Sqlite {
    #[expect(clippy::unwrap_used, reason = "without a directory there is no test")]
    fn new(tail_events: usize) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            tail_events,
        }
    }

    fn config(&self, stream: &str) -> SqliteConfig {
        SqliteConfig {
            stream: stream.into(),
            reserve_bytes: 64 * 1024,
            tail_events: self.tail_events,
            ..SqliteConfig::new(self.dir.path().join(stream))
        }
    }
}

#[async_trait]
impl Target for Sqlite {
    fn name(&self) -> String {
        format!("sqlite, {} events in memory", self.tail_events)
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

fanfare_conformance::suite!(Sqlite::new(65_536));

/// Consumers never keep up: nearly every event is read from disk.
mod from_disk {
    use super::Sqlite;

    fanfare_conformance::suite!(Sqlite::new(3));
}
