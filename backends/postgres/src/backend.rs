//! The backend itself: one stream, its log, its publisher, and the consumers of this process.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use fanfare_core::admin::Admin;
use fanfare_core::backend::{Backend, Published};
use fanfare_core::capability::{
    Capabilities, Dedup, Fencing, HistoryKind, Known, Limits, Order, SettleFrom, Starts,
};
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::dead_letter::DeadLetters;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::history::History;
use fanfare_core::state::State;
use fanfare_core::subscription::SubscriptionName;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::config::PostgresConfig;
use crate::connect::Database;
use crate::consume::{Desk, PostgresConsumer};
use crate::follow::Following;
use crate::log::Log;
use crate::migrate;
use crate::publish::Publisher;
use crate::retention::Retention;
use crate::state::Values;

/// The most events in one publish.
const MAX_BATCH: usize = 10_000;

/// One stream on one server.
#[derive(Debug)]
pub struct PostgresBackend {
    pub(crate) database: Arc<Database>,
    pub(crate) log: Arc<Log>,
    pub(crate) closed: watch::Sender<bool>,
    publisher: Publisher,
    following: Following,
    pub(crate) values: Values,
    desk: Arc<Desk>,
    consumers: Mutex<Vec<Weak<PostgresConsumer>>>,
}

impl PostgresBackend {
    /// Connects, and brings the schema of the stream up to date.
    pub async fn open(config: PostgresConfig) -> Result<Arc<Self>> {
        let database = Database::open(config).await?;
        let closed = watch::Sender::new(false);
        let (log, following) = Log::open(database.clone(), closed.subscribe()).await?;
        let retention = Retention::start(database.clone(), closed.subscribe());
        let publisher = Publisher::start(log.clone(), retention, closed.subscribe());
        let desk = Arc::new(Desk {
            database: database.clone(),
            log: log.clone(),
        });
        let values = Values::new(database.clone());
        Ok(Arc::new(Self {
            database,
            log,
            closed,
            publisher,
            following,
            values,
            desk,
            consumers: Mutex::default(),
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

#[async_trait]
impl Backend for PostgresBackend {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: "postgres",
            power_safe: Known::Unknown,
            durable: true,
            at_most_once: false,
            dedup: Dedup::Window,
            fencing: Fencing::Backend,
            start: Starts {
                earliest: true,
                time: true,
                position: true,
            },
            order: Order::Lanes,
            park: true,
            history: HistoryKind::Full,
            delay_precision_millis: 10,
            settle_from: SettleFrom::Any,
            atomic_batch: false,
            pause: true,
            seek: true,
            audit: true,
            foreign_input: false,
            shared: true,
            limits: Limits {
                data_bytes: self.database.config.max_data_bytes,
                batch_events: MAX_BATCH,
                delay_millis: 365 * 86_400_000,
            },
        }
    }

    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        self.check_open()?;
        if events.len() > MAX_BATCH {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("at most {MAX_BATCH} events in one publish"),
            ));
        }
        let most = self.database.config.max_data_bytes;
        self.publisher.publish(events, most).await
    }

    async fn consume(
        &self,
        subscription: &SubscriptionName,
        member: Member,
    ) -> Result<Arc<dyn Consumer>> {
        self.check_open()?;
        let closed = self.closed.subscribe();
        let consumer = PostgresConsumer::join(self.desk.clone(), subscription, &member, closed);
        let consumer = Arc::new(consumer.await?);
        let mut consumers = self.consumers.lock();
        consumers.retain(|there| there.strong_count() > 0);
        consumers.push(Arc::downgrade(&consumer));
        Ok(consumer)
    }

    fn admin(&self) -> &dyn Admin {
        self
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        self
    }

    fn history(&self) -> Result<&dyn History> {
        Ok(self)
    }

    fn state(&self) -> &dyn State {
        self
    }

    async fn close(&self) -> Result<()> {
        if self.closed.send_replace(true) {
            return Ok(());
        }
        self.publisher.ended().await;
        let consumers = std::mem::take(&mut *self.consumers.lock());
        let mut released = Ok(());
        for consumer in consumers.iter().filter_map(Weak::upgrade) {
            if consumer.kind() == MemberKind::Embedded {
                released = released.and(consumer.release().await);
            }
        }
        self.following.ended().await;
        released
    }
}

#[cfg(test)]
mod tests {
    use fanfare_conformance::broker::{Broker, Durability, postgres};
    use fanfare_core::data::Data;
    use fanfare_core::event::Event;
    use fanfare_core::id::EventId;
    use fanfare_core::record;

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

    #[tokio::test]
    async fn sql_publishes_what_the_record_reads() {
        let broker = Broker::start(postgres(), Durability::Off).await.unwrap();
        let config = PostgresConfig::new(broker.url(), "fanfare");
        let backend = PostgresBackend::open(config).await.unwrap();
        let client = backend.database.client().await.unwrap();
        let sql = [
            "SELECT fanfare.publish('a.b')",
            "SELECT fanfare.publish('a.b', '{\"n\": 1}', id => 'seven', source => '/shop', key => 'k', \
             at => '2026-01-02 03:04:05.678901+00', subject => 's', ordered => true, \
             extensions => '{\"x\": -300, \"y\": true, \"a\": \"text\"}')",
            "SELECT fanfare.publish_text('a.c', 'text', at => '1901-01-01 00:00:00.5+00')",
            "SELECT fanfare.publish_bytes('a.c', '\\xff00', content_type => 'image/png')",
            "SELECT fanfare.publish('a.b', id => 'seven', source => '/shop')",
        ];
        for (expected, sql) in [1_i64, 2, 3, 4, 2].into_iter().zip(sql) {
            assert_eq!(
                client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0),
                expected
            );
        }
        let bad = [
            "SELECT fanfare.publish('a..b')",
            "SELECT fanfare.publish('a.b', id => '')",
            "SELECT fanfare.publish('a.b', source => 'a b')",
            "SELECT fanfare.publish('a.b', extensions => '{\"A\": 1}')",
            "SELECT fanfare.publish('a.b', extensions => '{\"a\": []}')",
        ];
        for sql in bad {
            let error = client.query_one(sql, &[]).await.unwrap_err();
            assert_eq!(error.code().unwrap().code(), "22023", "{sql}: {error}");
        }
        assert_eq!(backend.log.caught_up().await.unwrap(), 4);
        let rows = backend.log.after(0, 10).await.unwrap();
        let events: Vec<_> = rows.iter().map(|row| row.slot.event().unwrap()).collect();
        let expected = Event::builder("a.b".parse().unwrap())
            .id(EventId::parse("seven").unwrap())
            .source("/shop")
            .key("k")
            .subject("s")
            .time("2026-01-02T03:04:05.678901Z".parse().unwrap())
            .extension("x", -300)
            .extension("y", true)
            .extension("a", "text")
            .data(Data::json("{\"n\": 1}"))
            .build()
            .unwrap();
        assert_eq!(
            record::encode_attributes(events[1]),
            record::encode_attributes(&expected)
        );
        assert_eq!(events[1], &expected);
        assert_eq!(&**events[0].source(), "/postgres/postgres");
        assert!(matches!(events[0].id(), EventId::Uuid(id) if id.get_version_num() == 7));
        assert_eq!(events[2].data(), Some(&Data::text("text")));
        assert_eq!(
            events[2].time(),
            Some("1901-01-01T00:00:00.5Z".parse().unwrap())
        );
        assert_eq!(events[3].data(), Some(&Data::binary(b"\xff\0".to_vec())));
        assert_eq!(events[3].content_type(), Some("image/png"));
    }

    #[tokio::test]
    async fn a_transaction_decides_about_its_events() {
        let broker = Broker::start(postgres(), Durability::Off).await.unwrap();
        let config = PostgresConfig::new(broker.url(), "orders");
        let backend = PostgresBackend::open(config.clone()).await.unwrap();
        let mut client = backend.database.client().await.unwrap();
        let event = || Event::builder("a.b".parse().unwrap()).build().unwrap();
        let (gone, kept) = (event(), event());
        let transaction = client.transaction().await.unwrap();
        backend.publish_in(&transaction, &[gone]).await.unwrap();
        transaction.rollback().await.unwrap();
        let transaction = client.transaction().await.unwrap();
        backend.lock_keys(&transaction, &["k", "l"]).await.unwrap();
        let first = backend
            .publish_in(&transaction, std::slice::from_ref(&kept))
            .await
            .unwrap();
        let again = backend
            .publish_in(&transaction, std::slice::from_ref(&kept))
            .await
            .unwrap();
        assert_eq!((first[0].duplicate, again[0].duplicate), (false, true));
        assert_eq!(first[0].position, again[0].position);
        transaction.commit().await.unwrap();
        backend.committed();
        backend.log.caught_up().await.unwrap();
        let rows = backend.log.after(0, 10).await.unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].slot.event(), Some(&kept));
        drop(client);
        PostgresBackend::migrate_down(config, 0).await.unwrap();
    }
}
