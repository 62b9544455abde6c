//! The options of the Redis backend.

use std::path::PathBuf;
use std::time::Duration;

use fanfare_core::clock::Clock;
use fanfare_core::subscription::{SubscriptionName, SubscriptionSpec};

use crate::form::Form;

/// Which subscriptions are consumer groups of Redis, shared with members that know nothing of us.
/// They need [`Form::Entries`]; ephemeral ones never are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Groups {
    /// None: our own leases, which cost less.
    #[default]
    None,
    /// The one of this name.
    One(SubscriptionName),
    /// Every one.
    All,
}

/// Server, stream, bounds and clock.
#[derive(Clone)]
pub struct RedisConfig {
    /// `redis://user:password@host:port/database`, `rediss:` for TLS, or `redis+unix:` and a path.
    /// `redis+cluster://user:password@host:port,host:port` for a cluster, of which some servers are
    /// named; `redis+sentinel://user:password@host:port,host:port/service/database` for the master
    /// that sentinels name. Both with `rediss+` for TLS.
    pub url: String,
    /// Name and password for the sentinels; those in the URL are for the servers.
    pub sentinel_user: (Option<String>, Option<String>),
    /// The file with the certificates (PEM) that sign the server's, for `rediss:`. Default: those
    /// that the system trusts.
    pub tls_ca: Option<PathBuf>,
    /// Our own certificate and its key (PEM files), where the server asks for one.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
    /// How many replicas must have a publish before it is answered; fewer in time make it
    /// [`Unknown`](fanfare_core::ErrorKind::Unknown). Without, what was acknowledged last may be
    /// lost when a replica takes over: Redis replicates after it answered. Default 0.
    pub wait_replicas: usize,
    /// The stream's key. Everything else stands under `{stream}:ff:`.
    pub stream: String,
    /// How events stand in the stream's entries. Default: frames.
    pub form: Form,
    /// Which subscriptions are consumer groups of Redis. Default: none.
    pub groups: Groups,
    /// The name under which this process is in such groups; a random one unless given.
    pub consumer: Option<String>,
    /// How long an entry of such a group may be idle before it is taken over. Default 30 s.
    pub takeover: Duration,
    /// The most bytes of frames kept; publishers get [`Full`](fanfare_core::ErrorKind::Full) when
    /// nothing can be trimmed. 0: as much as the server has. Default 0.
    pub max_bytes: u64,
    /// How long events are kept after every subscription has settled them. Default 7 days.
    pub retention: Duration,
    /// How long the ids of published events are remembered at least. Default 10 minutes.
    pub dedup_window: Duration,
    /// The most ids remembered in each half of the window; a fuller half ends early. About 64 bytes
    /// of the server's memory each. Default 1,000,000.
    pub dedup_ids: usize,
    /// The most bytes of data in one event. Default 16 MiB; the bus has its own, lower limit.
    pub max_data_bytes: usize,
    /// The most events in one frame. Default 1,000.
    pub frame_events: usize,
    /// The most bytes of one frame of several events. Default 256 KiB.
    pub frame_bytes: usize,
    /// The most publishes waiting for a flush. Default 10,000.
    pub queue: usize,
    /// The most bytes of recent frames held in memory for the subscriptions of this process.
    /// Default 16 MiB.
    pub cache_bytes: usize,
    /// How long connecting may take. Default 5 s.
    pub connect_timeout: Duration,
    /// How long an answer may take. Default 10 s.
    pub response_timeout: Duration,
    /// How long a publish waits for a server that cannot be reached. Default 10 s.
    pub publish_timeout: Duration,
    /// Time, for what the server's own clock does not decide.
    pub clock: Clock,
}

impl RedisConfig {
    /// The defaults, on this server and stream.
    pub fn new(url: impl Into<String>, stream: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            sentinel_user: (None, None),
            tls_ca: None,
            tls_identity: None,
            wait_replicas: 0,
            stream: stream.into(),
            form: Form::default(),
            groups: Groups::default(),
            consumer: None,
            takeover: Duration::from_secs(30),
            max_bytes: 0,
            retention: Duration::from_hours(168),
            dedup_window: Duration::from_mins(10),
            dedup_ids: 1_000_000,
            max_data_bytes: 16 << 20,
            frame_events: 1_000,
            frame_bytes: 256 << 10,
            queue: 10_000,
            cache_bytes: 16 << 20,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(10),
            publish_timeout: Duration::from_secs(10),
            clock: Clock::system(),
        }
    }

    /// Whether a subscription is a consumer group of Redis.
    pub(crate) fn is_group(&self, spec: &SubscriptionSpec) -> bool {
        !spec.ephemeral
            && match &self.groups {
                Groups::None => false,
                Groups::One(name) => *name == spec.name,
                Groups::All => true,
            }
    }

    /// What every key but the stream begins with; it hashes to the stream's slot.
    pub(crate) fn prefix(&self) -> String {
        if self.stream.contains('{') {
            format!("{}:ff:", self.stream)
        } else {
            format!("{{{}}}:ff:", self.stream)
        }
    }
}

impl std::fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        f.debug_struct("RedisConfig")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}
