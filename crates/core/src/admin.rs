//! Operating subscriptions: create, change, pause, seek, count, and prove that nothing is missing.

use async_trait::async_trait;
use serde::Serialize;

use crate::advice::Advice;
use crate::error::{Error, ErrorKind, Result};
use crate::pattern::PatternSet;
use crate::position::Position;
use crate::subscription::{SubscriptionName, SubscriptionSpec};
use crate::timestamp::Timestamp;

/// What [`Admin::put`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is new.
    Created,
    /// It was there, just so.
    Unchanged,
    /// Lease, retry policy or dead-letter option changed.
    Changed,
}

/// Where a subscription's deliveries are. `published` is counted from the log, the rest from
/// counters written with the settlements: they agree unless something was lost or invented.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Matching events in the log since the subscription's start.
    pub published: u64,
    /// Settled with ack.
    pub acknowledged: u64,
    /// Dropped, or discarded from the dead letters.
    pub dropped: u64,
    /// Dead letters now.
    pub dead: u64,
    /// Leased now.
    pub in_flight: u64,
    /// Not yet leased, waiting for a retry, or behind their key.
    pub waiting: u64,
}

impl Counts {
    /// Whether everything published is accounted for.
    pub fn balanced(&self) -> bool {
        self.published
            == self.acknowledged + self.dropped + self.dead + self.in_flight + self.waiting
    }

    /// What is neither settled nor dead.
    pub fn unsettled(&self) -> u64 {
        self.in_flight + self.waiting
    }

    /// Why a subscription with these counts is not deleted without force.
    pub fn refuse_deletion(&self, name: &SubscriptionName) -> Error {
        let Self {
            in_flight,
            waiting,
            dead,
            ..
        } = self;
        Error::new(
            ErrorKind::Conflict,
            format!(
                "subscription `{name}` has {in_flight} in flight, {waiting} waiting and {dead} dead"
            ),
        )
    }
}

/// A subscription as it stands.
#[derive(Debug, Clone)]
pub struct SubscriptionInfo {
    /// As created or last changed.
    pub spec: SubscriptionSpec,
    /// When it was created.
    pub created: Timestamp,
    /// Whether it is paused.
    pub paused: bool,
    /// Where its deliveries are.
    pub counts: Counts,
    /// Everything above it has not been leased yet.
    pub frontier: Position,
    /// When the oldest unsettled event was recorded.
    pub oldest_unsettled: Option<Timestamp>,
}

/// Where to move a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeekTo {
    /// The oldest event kept.
    Earliest,
    /// Behind the newest event.
    Latest,
    /// The first event recorded at or after.
    Time(Timestamp),
    /// The first event after this position.
    After(Position),
    /// The event with this id, itself included; ambiguous ids are refused.
    Event(String),
}

/// What a seek did, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sought {
    /// The frontier before.
    pub from: Position,
    /// The frontier after.
    pub to: Position,
    /// How many matching events now lie above it.
    pub events: u64,
}

/// Conservation of one subscription.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audited {
    /// Which.
    pub name: SubscriptionName,
    /// Both sides of the balance.
    #[serde(flatten)]
    pub counts: Counts,
    /// Where the balance is broken: first and last position of each bad stretch and by how many
    /// events it is off (positive: missing).
    pub breaches: Vec<Breach>,
}

/// A stretch of the log that does not balance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Breach {
    /// The first position of the stretch.
    pub first: Position,
    /// The last position of the stretch.
    pub last: Position,
    /// Matching events without an account; negative when there are more accounts than events.
    pub missing: i64,
    /// Ids of the matching events there, at most 1,000.
    pub ids: Vec<String>,
}

/// Whether the backend works now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Whether publishing and consuming work.
    pub ok: bool,
    /// What is wrong, or what to know.
    pub detail: String,
}

/// What the stream holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StreamStats {
    /// Events kept.
    pub events: u64,
    /// Bytes kept, as far as known.
    pub bytes: u64,
    /// The oldest position kept.
    pub first: Option<Position>,
    /// The newest position.
    pub last: Option<Position>,
    /// How often events were found gone that nobody here had removed: the stream was deleted or
    /// trimmed by somebody else. Each time is reported once. Always 0 where the engine is ours alone.
    pub losses: u64,
    /// How many events were gone then, settled or not, as far as that could be told.
    pub lost: u64,
}

/// Operating the subscriptions of a stream.
#[async_trait]
pub trait Admin: Send + Sync {
    /// MUST create the subscription durably, or change lease, retry and dead-letter options of the
    /// one there; other patterns or order are a
    /// [`Conflict`](crate::ErrorKind::Conflict) that names both.
    async fn put(&self, spec: &SubscriptionSpec) -> Result<Put>;

    /// MUST change the patterns for events from now on; what is unsettled stays.
    async fn set_patterns(&self, name: &SubscriptionName, patterns: PatternSet) -> Result<()>;

    /// MUST refuse with a conflict that gives the counts while anything is unsettled or dead,
    /// unless `force`.
    async fn delete(&self, name: &SubscriptionName, force: bool) -> Result<()>;

    /// One subscription.
    async fn get(&self, name: &SubscriptionName) -> Result<SubscriptionInfo>;

    /// One subscription as created or last changed. MUST cost the same whatever waits, which
    /// [`Admin::get`] need not where counting reads the log: every settlement from elsewhere asks.
    async fn spec(&self, name: &SubscriptionName) -> Result<SubscriptionSpec>;

    /// Every subscription that is not ephemeral, by name.
    async fn list(&self) -> Result<Vec<SubscriptionInfo>>;

    /// MUST stop leasing new deliveries until resumed, durably; settling goes on.
    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()>;

    /// MUST make open leases late, forget waiting retries, and go on from the new place; the
    /// balance of the audit starts anew there. Dead letters stay. A dry run changes nothing.
    async fn seek(&self, name: &SubscriptionName, to: &SeekTo, dry_run: bool) -> Result<Sought>;

    /// MUST compare the log with the counters, for one subscription or all.
    async fn audit(&self, name: Option<&SubscriptionName>) -> Result<Vec<Audited>>;

    /// What the stream holds.
    async fn stats(&self) -> Result<StreamStats>;

    /// MUST answer without waiting for anything that is broken.
    async fn health(&self) -> Health;

    /// What an operator should know about what lies below: versions, settings and places, each that
    /// weakens a promise with what to do. MUST change nothing. Empty where there is nothing to know.
    async fn advice(&self) -> Result<Vec<Advice>> {
        Ok(Vec::new())
    }
}
