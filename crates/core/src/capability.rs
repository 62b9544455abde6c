//! What a backend can and cannot do, as data. Each "no" is a row in the generated table with its
//! reason; the bus and the suite read it instead of asking which backend they talk to.

use serde::Serialize;

/// Yes, no, or the backend cannot tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It depends on what we cannot see.
    Unknown,
}

/// How repeated publishes are recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dedup {
    /// For as long as the event is kept.
    Retention,
    /// For a bounded time or number of events.
    Window,
    /// Not at all.
    None,
}

/// Who refuses a late settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fencing {
    /// The backend, by the epoch of the lease.
    Backend,
    /// The client, by its own clock.
    ClientClock,
}

/// How ordered subscriptions share work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Members share the keys: the backend never leases two events of one key at once.
    Lanes,
    /// One process at a time has the subscription, and its members share the keys; those of others
    /// stand by.
    OneProcess,
}

/// Which past events can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HistoryKind {
    /// By every filter, and by id.
    Full,
    /// By position and time only.
    Range,
    /// None.
    None,
}

/// From where a delivery can be settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SettleFrom {
    /// From any process.
    Any,
    /// From the process that received it.
    Node,
}

/// Which starts a new subscription may ask for; `latest` always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Starts {
    /// The oldest event kept.
    pub earliest: bool,
    /// A time.
    pub time: bool,
    /// A position.
    pub position: bool,
}

/// What is bounded, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// The most bytes of data in one event.
    pub data_bytes: usize,
    /// The most events in one publish.
    pub batch_events: usize,
    /// The longest retry delay in milliseconds.
    pub delay_millis: u64,
}

/// Everything a backend says about itself, as configured now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "a table of yes and no")]
pub struct Capabilities {
    /// `memory`, `sqlite`, `redis`, ...
    pub backend: &'static str,
    /// Acknowledged events survive a power cut.
    pub power_safe: Known,
    /// Acknowledged events survive the death of our process.
    pub durable: bool,
    /// At most once: an event is lost to whoever does not listen when it is published, and what a
    /// process holds of it dies with the process.
    pub at_most_once: bool,
    /// Repeated publishes.
    pub dedup: Dedup,
    /// Late settlements.
    pub fencing: Fencing,
    /// Where subscriptions may start.
    pub start: Starts,
    /// Ordered subscriptions.
    pub order: Order,
    /// A key can wait behind its dead letter.
    pub park: bool,
    /// Past events.
    pub history: HistoryKind,
    /// How precise a retry delay is, in milliseconds.
    pub delay_precision_millis: u64,
    /// Where deliveries are settled.
    pub settle_from: SettleFrom,
    /// A batch is published whole or not at all.
    pub atomic_batch: bool,
    /// Subscriptions can be paused.
    pub pause: bool,
    /// Subscriptions can be moved to another position.
    pub seek: bool,
    /// Conservation can be proven.
    pub audit: bool,
    /// Others write to the stream too, so input may be undecodable.
    pub foreign_input: bool,
    /// Several processes may open it at once.
    pub shared: bool,
    /// What is bounded.
    pub limits: Limits,
}
