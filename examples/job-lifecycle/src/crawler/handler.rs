//! How events arrive: one method for each type, and what every one of them knows of its event.

use fanfare::bus::extract::{FromRequest, decode};
use fanfare::bus::handler::Request;
use fanfare::bus::{DomainEvent, Outcome, Router, State};
use fanfare::core::timestamp::Timestamp;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::events::{SourceDeleted, SourceDetails, SourceDisabled, SourceEnabled, SourceUpdated};
use crate::{Failure, redis_stream};

/// An event about a source.
#[derive(Debug, Clone)]
pub struct SourceEvent<T> {
    /// Its id.
    pub id: Uuid,
    /// Its type.
    pub event_type: String,
    /// The source.
    pub source_id: Uuid,
    /// When it happened.
    pub at: Timestamp,
    /// Its entry in the stream.
    pub stream_id: String,
    /// What happened.
    pub payload: T,
}

/// What does not fit is malformed: another attempt would not read it better.
impl<T: DeserializeOwned + Send + 'static> FromRequest for SourceEvent<T> {
    fn from_request(request: &Request) -> Result<Self, Outcome> {
        let event = request.event();
        let uuid = |name: &str, text: &str| {
            let parsed = text.parse();
            parsed.map_err(|_| Outcome::reject(format!("{name} `{text}` is no UUID")))
        };
        Ok(Self {
            id: uuid("event_id", &event.id().to_string())?,
            event_type: event.event_type().to_string(),
            source_id: uuid("source_id", event.key().unwrap_or_default())?,
            at: event
                .time()
                .ok_or_else(|| Outcome::reject("no timestamp"))?,
            stream_id: redis_stream::entry_id(request.delivery().position),
            payload: decode(event).map_err(Outcome::reject)?,
        })
    }
}

/// Whoever wants to hear about sources. An error is a failed attempt.
pub trait SourceEvents: Clone + Send + Sync + 'static {
    /// There is a new one.
    fn created(&self, event: SourceEvent<SourceDetails>) -> impl Handled;
    /// It changed.
    fn updated(&self, event: SourceEvent<SourceUpdated>) -> impl Handled;
    /// It is gone.
    fn deleted(&self, event: SourceEvent<SourceDeleted>) -> impl Handled;
    /// It is to be crawled.
    fn enabled(&self, event: SourceEvent<SourceEnabled>) -> impl Handled;
    /// It is not to be crawled.
    fn disabled(&self, event: SourceEvent<SourceDisabled>) -> impl Handled;
}

/// What the methods of [`SourceEvents`] answer.
pub trait Handled: Future<Output = Result<(), Failure>> + Send {}

impl<F: Future<Output = Result<(), Failure>> + Send> Handled for F {}

/// From event types to methods. Types that nobody knows are logged as warnings and acknowledged.
pub fn routes<H: SourceEvents>(handler: H) -> Router {
    Router::new()
        .route(
            SourceDetails::TYPE,
            |State(h): State<H>, event| async move { h.created(event).await },
        )
        .route(
            SourceUpdated::TYPE,
            |State(h): State<H>, event| async move { h.updated(event).await },
        )
        .route(
            SourceDeleted::TYPE,
            |State(h): State<H>, event| async move { h.deleted(event).await },
        )
        .route(
            SourceEnabled::TYPE,
            |State(h): State<H>, event| async move { h.enabled(event).await },
        )
        .route(
            SourceDisabled::TYPE,
            |State(h): State<H>, event| async move { h.disabled(event).await },
        )
        .state(handler)
}

/// Logs what comes and does nothing: for a launch in the dark.
#[derive(Debug, Clone, Copy)]
pub struct LogOnly;

impl LogOnly {
    fn log<T>(event: &SourceEvent<T>) {
        let SourceEvent {
            event_type,
            source_id,
            ..
        } = event;
        tracing::info!(%source_id, "[NOOP] {event_type} received");
    }
}

impl SourceEvents for LogOnly {
    async fn created(&self, event: SourceEvent<SourceDetails>) -> Result<(), Failure> {
        Self::log(&event);
        Ok(())
    }

    async fn updated(&self, event: SourceEvent<SourceUpdated>) -> Result<(), Failure> {
        Self::log(&event);
        Ok(())
    }

    async fn deleted(&self, event: SourceEvent<SourceDeleted>) -> Result<(), Failure> {
        Self::log(&event);
        Ok(())
    }

    async fn enabled(&self, event: SourceEvent<SourceEnabled>) -> Result<(), Failure> {
        Self::log(&event);
        Ok(())
    }

    async fn disabled(&self, event: SourceEvent<SourceDisabled>) -> Result<(), Failure> {
        Self::log(&event);
        Ok(())
    }
}
