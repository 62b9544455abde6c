//! Past events: listing them by filter, finding one, and following the log's end.

use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use crate::error::Result;
use crate::event::Event;
use crate::pattern::PatternSet;
use crate::position::Position;
use crate::subscription::SubscriptionName;
use crate::timestamp::Timestamp;

/// An event as it stands in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// Where.
    pub position: Position,
    /// When it was appended.
    pub recorded: Timestamp,
    /// What.
    pub event: Event,
}

/// The state of an event over all its deliveries; derived, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventStatus {
    /// Some delivery is dead.
    Failed,
    /// Some delivery is leased.
    Processing,
    /// Some delivery waits.
    Pending,
    /// Every delivery is settled.
    Completed,
}

/// Where a delivery of a past event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Not leased yet, or waiting for a retry.
    Waiting,
    /// Leased.
    InFlight,
    /// Acknowledged or dropped.
    Settled,
    /// A dead letter.
    Dead,
}

/// One subscription's view of a past event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeliveryInfo {
    /// Which subscription.
    pub subscription: SubscriptionName,
    /// Where it is.
    pub state: DeliveryState,
    /// Attempts made so far, as far as they are counted.
    pub attempts: u32,
    /// When it is due again, while it waits for a retry.
    pub due: Option<Timestamp>,
}

impl EventStatus {
    /// The status that follows from the deliveries.
    pub fn of(deliveries: &[DeliveryInfo]) -> Self {
        let any = |state| deliveries.iter().any(|d| d.state == state);
        if any(DeliveryState::Dead) {
            Self::Failed
        } else if any(DeliveryState::InFlight) {
            Self::Processing
        } else if any(DeliveryState::Waiting) {
            Self::Pending
        } else {
            Self::Completed
        }
    }
}

/// Which events, and how many.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventQuery {
    /// Whose type matches.
    pub patterns: Option<PatternSet>,
    /// Recorded at or after.
    pub since: Option<Timestamp>,
    /// Recorded before.
    pub until: Option<Timestamp>,
    /// With this ordering key.
    pub key: Option<String>,
    /// From this source.
    pub source: Option<String>,
    /// With this status.
    pub status: Option<EventStatus>,
    /// Newest first; oldest first otherwise.
    pub descending: bool,
    /// Only beyond this position, in the direction of the listing.
    pub after: Option<Position>,
    /// At most so many.
    pub limit: usize,
}

/// A page of past events.
#[derive(Debug, Clone, Default)]
pub struct EventPage {
    /// The events, at most the limit.
    pub items: Vec<Recorded>,
    /// Where to go on, as [`EventQuery::after`]; none at the end. A page may hold fewer events than
    /// the limit and still go on: a backend bounds how much it reads at once.
    pub next: Option<Position>,
}

/// Reading the log.
#[async_trait]
pub trait History: Send + Sync {
    /// A page; [`ErrorKind::Gone`](crate::ErrorKind::Gone) when `after` lies before what is kept
    /// and the listing goes forward.
    async fn events(&self, query: &EventQuery) -> Result<EventPage>;

    /// Every event with this id, of one source or of all.
    async fn event(&self, id: &str, source: Option<&str>) -> Result<Vec<Recorded>>;

    /// The deliveries of the event at `position`, by subscription name.
    async fn deliveries(&self, position: Position) -> Result<Vec<DeliveryInfo>>;

    /// The newest position; [`Position::START`] when nothing was ever published.
    async fn head(&self) -> Result<Position>;

    /// Waits until there is an event after `position`, at most `wait`, and answers the newest
    /// position.
    async fn wait_beyond(&self, position: Position, wait: Duration) -> Result<Position>;
}
