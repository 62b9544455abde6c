//! The backend itself: one stream, its log, its publisher, and the consumers of this process.

use std::sync::Arc;

use fanfare_core::error::{Error, ErrorKind, Result};
use tokio::sync::watch;

use crate::config::PostgresConfig;
use crate::connect::Database;
use crate::log::Log;
use crate::migrate;

/// One stream on one server.
#[derive(Debug)]
pub struct PostgresBackend {
    pub(crate) database: Arc<Database>,
    pub(crate) log: Arc<Log>,
    pub(crate) closed: watch::Sender<bool>,
}

impl PostgresBackend {
    /// Connects, and brings the schema of the stream up to date.
    pub async fn open(config: PostgresConfig) -> Result<Arc<Self>> {
        let database = Database::open(config).await?;
        let closed = watch::Sender::new(false);
        let log = Log::open(database.clone(), closed.subscribe()).await?;
        Ok(Arc::new(Self {
            database,
            log,
            closed,
        }))
    }

    /// Takes the steps of the schema back until `target` are left, with everything they hold; 0
    /// removes the stream. Nobody may have it open.
    pub async fn migrate_down(config: PostgresConfig, target: i32) -> Result<()> {
        migrate::down(&Database::connect(config)?, target).await
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if *self.closed.borrow() {
            return Err(Error::new(ErrorKind::Closed, "the backend is closed"));
        }
        Ok(())
    }
}
