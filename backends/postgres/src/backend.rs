//! The backend itself: one stream, its log, its publisher, and the consumers of this process.

use std::sync::Arc;

use fanfare_core::error::{Error, ErrorKind, Result};
use tokio::sync::watch;

use crate::config::PostgresConfig;
use crate::connect::Database;
use crate::follow::Following;
use crate::log::Log;
use crate::migrate;
use crate::publish::Publisher;

/// One stream on one server.
#[derive(Debug)]
pub struct PostgresBackend {
    pub(crate) database: Arc<Database>,
    pub(crate) log: Arc<Log>,
    pub(crate) closed: watch::Sender<bool>,
    publisher: Publisher,
    following: Following,
}

impl PostgresBackend {
    /// Connects, and brings the schema of the stream up to date.
    pub async fn open(config: PostgresConfig) -> Result<Arc<Self>> {
        let database = Database::open(config).await?;
        let closed = watch::Sender::new(false);
        let (log, following) = Log::open(database.clone(), closed.subscribe()).await?;
        let publisher = Publisher::start(log.clone(), closed.subscribe());
        Ok(Arc::new(Self {
            database,
            log,
            closed,
            publisher,
            following,
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

#[cfg(test)]
mod tests {
    use fanfare_conformance::broker::{Broker, Durability, postgres};
    use fanfare_core::event::Event;

    use super::*;

    #[tokio::test]
    async fn what_is_published_is_read() {
        let broker = Broker::start(postgres(), Durability::Always).await.unwrap();
        let config = PostgresConfig::new(broker.url(), "orders");
        let backend = PostgresBackend::open(config.clone()).await.unwrap();
        let other = PostgresBackend::open(config).await.unwrap();
        let event = || Event::builder("a.b".parse().unwrap()).build().unwrap();
        let events: Vec<_> = (0..100).map(|_| event()).collect();
        for n in 0..3 {
            let answers = backend.publisher.publish(&events, 100).await.unwrap();
            for (i, answer) in answers.into_iter().enumerate() {
                let answer = answer.unwrap();
                assert_eq!(answer.duplicate, n > 0);
                assert_eq!(answer.position.unwrap().0, i as u128 + 1);
            }
        }
        for backend in [&backend, &other] {
            assert_eq!(backend.log.caught_up().await.unwrap(), 100);
            let rows = backend.log.after(40, 1000).await.unwrap();
            assert_eq!(rows.len(), 60);
            assert_eq!(rows[0].slot.event(), Some(&events[40]));
            let rows = backend.log.before(Some(11), 1000).await.unwrap();
            assert_eq!(rows.len(), 10);
            assert_eq!(backend.log.find(&[5, 500]).await.unwrap().len(), 1);
        }
    }
}
