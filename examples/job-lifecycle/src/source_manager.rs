//! The service that owns the sources: an HTTP API over PostgreSQL, every change with its event in one
//! transaction, and the relay that carries the events to Redis.

pub mod api;
pub mod publisher;
pub mod sources;

use std::time::Duration;

use fanfare::Bus;
use fanfare::core::Result;

use crate::database::{self, Migration};
use crate::settings::{Events, SourceManager};
use crate::{Failure, http, redis_stream};
use publisher::Publisher;
use sources::Sources;

/// How long what is under way may take at the end.
const GRACE: Duration = Duration::from_secs(10);

/// The schema of the sources.
pub const MIGRATIONS: [Migration; 1] = [Migration {
    version: 1,
    up: include_str!("../migrations/source-manager/0001_sources.up.sql"),
    down: include_str!("../migrations/source-manager/0001_sources.down.sql"),
}];

/// Runs the service until `stop`.
pub async fn run(
    settings: SourceManager,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Failure> {
    let pool = database::pool(&settings.database)?;
    database::migrate_up(&mut *pool.get().await?, &MIGRATIONS).await?;
    let publisher = Publisher::open(&settings).await?;
    let (outbox, events) = (publisher.outbox().cloned(), settings.events.clone());
    let relay = tokio::spawn(async move {
        let relay = relay(outbox, &events).await;
        relay.inspect_err(|error| tracing::error!(%error, "events stay in the outbox"))
    });
    let sources = Sources::new(pool, publisher.clone());
    let router = api::router(sources, publisher.clone());
    http::serve(&settings.listen, router, stop).await?;
    // Where the events come from ends first: what is on its way needs where they go.
    publisher.shutdown(GRACE).await?;
    Ok(redis_stream::close(relay, GRACE).await?)
}

/// Carries every event from the outbox to the stream, from now on; waits for Redis where it is away.
async fn relay(outbox: Option<Bus>, events: &Events) -> Result<Option<Bus>> {
    let Some(outbox) = outbox else {
        return Ok(None);
    };
    let stream = redis_stream::open(&events.stream).await?;
    let relay = outbox
        .forward("to-redis", "**", &stream)
        .lease(events.lease);
    let relay = relay.on_arrival(|event, published| {
        tracing::info!(
            event_type = %event.event_type(),
            source_id = event.key(),
            stream_id = published.position.map(redis_stream::entry_id),
            "published"
        );
    });
    relay.await?;
    Ok(Some(stream))
}
