//! Events about sources, into the outbox. Where events are off nothing is published, and nobody who
//! publishes needs to know.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Transaction;
use fanfare::Bus;
use fanfare::address::Address;
use fanfare::bus::{DomainEvent, Limits};
use fanfare::core::Result;
use fanfare::core::event::EventBuilder;
use fanfare::core::timestamp::Timestamp;
use fanfare::postgres::PostgresBackend;
use fanfare::registry;
use uuid::Uuid;

use crate::settings::SourceManager;

/// How long one attempt to publish may take. An event that is published later has four where the outcome
/// of the others is not known: 5 s in all.
const ATTEMPT_LIMIT: Duration = Duration::from_millis(1_250);

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Publisher(Option<Outbox>);

#[derive(Debug, Clone)]
struct Outbox {
    /// Publishes within transactions.
    postgres: Arc<PostgresBackend>,
    /// Everything else.
    bus: Bus,
}

/// An event about a source; id and time are filled in where they are missing.
pub fn about(source: Uuid, payload: &impl DomainEvent) -> Result<EventBuilder> {
    Ok(payload.to_builder()?.key(source.to_string()))
}

impl Publisher {
    /// On the service's own database, or a publisher that does nothing.
    pub async fn open(settings: &SourceManager) -> Result<Self> {
        if !settings.events.enabled {
            return Ok(Self(None));
        }
        let address =
            Address::parse(settings.database.reveal())?.with_parameter("stream", "outbox");
        let postgres = registry::open_postgres(address).await?;
        let limits = Limits {
            publish_timeout: ATTEMPT_LIMIT,
            ..Limits::default()
        };
        let bus = Bus::builder(postgres.clone())
            .source("/source-manager")
            .limits(limits);
        Ok(Self(Some(Outbox {
            postgres,
            bus: bus.build()?,
        })))
    }

    /// Publishes if and only if the transaction commits; [`Publisher::committed`] is to follow.
    pub async fn publish_in(
        &self,
        transaction: &Transaction<'_>,
        event: EventBuilder,
        at: Timestamp,
    ) -> Result<()> {
        let Some(outbox) = &self.0 else { return Ok(()) };
        let event = outbox.bus.prepare(event.time(at))?;
        outbox.postgres.publish_in(transaction, &[event]).await?;
        Ok(())
    }

    /// A transaction that published was committed: its events leave now, and not a little later.
    pub fn committed(&self) {
        if let Some(outbox) = &self.0 {
            outbox.postgres.committed();
        }
    }

    /// Publishes by itself; durable when it answers.
    pub async fn publish(&self, event: EventBuilder) -> Result<()> {
        let Some(outbox) = &self.0 else { return Ok(()) };
        outbox.bus.publish(event).await.map(drop)
    }

    /// Publishes in the background, within 5 s; failures are logged. An error where too many wait.
    pub fn publish_later(&self, event: EventBuilder) -> Result<()> {
        let Some(outbox) = &self.0 else { return Ok(()) };
        outbox.bus.try_publish(event).map(drop)
    }

    /// The outbox, where events are on.
    pub fn outbox(&self) -> Option<&Bus> {
        self.0.as_ref().map(|outbox| &outbox.bus)
    }

    /// Ends it; what runs may take so long.
    pub async fn shutdown(&self, grace: Duration) -> Result<()> {
        match self.outbox() {
            Some(bus) => bus.shutdown(grace).await.map(drop),
            None => Ok(()),
        }
    }
}
