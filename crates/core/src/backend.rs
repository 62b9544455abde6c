//! The contract of a backend: it stores, moves and leases. Retry decisions, middleware, metrics and
//! heartbeats live once, in the bus.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;

use crate::admin::Admin;
use crate::capability::Capabilities;
use crate::consumer::{Consumer, Member};
use crate::dead_letter::DeadLetters;
use crate::error::Result;
use crate::event::Event;
use crate::history::History;
use crate::position::Position;
use crate::state::State;
use crate::subscription::SubscriptionName;

/// The durable acknowledgement of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Where the event stands; none where the backend has no positions.
    pub position: Option<Position>,
    /// It was there already; nothing was stored, and `position` is the first one's.
    pub duplicate: bool,
}

/// One stream on one engine.
#[async_trait]
pub trait Backend: Debug + Send + Sync + 'static {
    /// What it can do, as configured now.
    fn capabilities(&self) -> Capabilities;

    /// MUST answer per event, in order, after each is durable. Concurrent calls share round trips
    /// and flushes by themselves. The outer error means that no outcome is known better than the
    /// error says: [`Unknown`](crate::ErrorKind::Unknown) for all of them, or nothing stored.
    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<Published>>>;

    /// MUST join the subscription, which exists.
    async fn consume(
        &self,
        subscription: &SubscriptionName,
        member: Member,
    ) -> Result<Arc<dyn Consumer>>;

    /// Operating subscriptions.
    fn admin(&self) -> &dyn Admin;

    /// Dead letters.
    fn dead_letters(&self) -> &dyn DeadLetters;

    /// Past events; an [`Unsupported`](crate::ErrorKind::Unsupported) error where there are none.
    fn history(&self) -> Result<&dyn History>;

    /// Shared values.
    fn state(&self) -> &dyn State;

    /// MUST flush what is queued, release what is leased to embedded members, and make every later
    /// call fail with [`Closed`](crate::ErrorKind::Closed). Calling it again is fine.
    async fn close(&self) -> Result<()>;
}
