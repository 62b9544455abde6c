//! The options of the PostgreSQL backend.

use std::path::PathBuf;
use std::time::Duration;

use fanfare_core::clock::Clock;
use fanfare_core::error::{Error, Result};

/// The longest name PostgreSQL keeps of a schema, less `fanfare_`.
const MAX_STREAM_BYTES: usize = 54;

/// Server, stream, bounds and clock.
#[derive(Clone)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database`, with the client's own parameters such as
    /// `sslmode`: `require` encrypts, and checks the certificate and the name in it; everything else
    /// does not encrypt.
    pub url: String,
    /// A file of certificates (PEM) that are trusted instead of those that the system trusts. Refused
    /// without `sslmode=require`.
    pub tls_ca: Option<PathBuf>,
    /// The stream's name; it stands in a schema of its own, `fanfare` for the stream `fanfare` and
    /// `fanfare_NAME` for every other. At most 54 bytes.
    pub stream: String,
    /// The most bytes of events kept; publishers get [`Full`](fanfare_core::ErrorKind::Full) when
    /// nothing can be removed. 0: as much as the server has. Default 0.
    pub max_bytes: u64,
    /// How long events are kept after every subscription has settled them. Default 7 days.
    pub retention: Duration,
    /// How long the ids of published events are remembered at least. Default 10 minutes.
    pub dedup_window: Duration,
    /// The most bytes of data in one event. Default 16 MiB; the bus has its own, lower limit.
    pub max_data_bytes: usize,
    /// The most events in one flush. Default 1,000.
    pub flush_events: usize,
    /// The most bytes of one flush of several events. Default 1 MiB.
    pub flush_bytes: usize,
    /// The most publishers waiting for a flush. Default 10,000.
    pub queue: usize,
    /// The most bytes of recent events held in memory for the subscriptions of this process.
    /// Default 16 MiB.
    pub cache_bytes: usize,
    /// The most connections for everything but publishing and following the log, which have one
    /// each. Default 8.
    pub connections: usize,
    /// A transaction-mode pooler stands between us and the server: no statement outlives its
    /// transaction, and news are polled for instead of listened to. Default false.
    pub pooler: bool,
    /// How long connecting may take. Default 5 s.
    pub connect_timeout: Duration,
    /// How long an answer may take. Default 10 s.
    pub response_timeout: Duration,
    /// How long a publish waits for a server that cannot be reached. Default 10 s.
    pub publish_timeout: Duration,
    /// Time, for what the server's own clock does not decide.
    pub clock: Clock,
}

impl PostgresConfig {
    /// The defaults, on this server and stream.
    pub fn new(url: impl Into<String>, stream: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            tls_ca: None,
            stream: stream.into(),
            max_bytes: 0,
            retention: Duration::from_hours(168),
            dedup_window: Duration::from_mins(10),
            max_data_bytes: 16 << 20,
            flush_events: 1_000,
            flush_bytes: 1 << 20,
            queue: 10_000,
            cache_bytes: 16 << 20,
            connections: 8,
            pooler: false,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(10),
            publish_timeout: Duration::from_secs(10),
            clock: Clock::system(),
        }
    }

    /// The schema of the stream.
    pub(crate) fn schema(&self) -> Result<String> {
        let stream = self.stream.as_str();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if !(1..=MAX_STREAM_BYTES).contains(&stream.len()) || !stream.chars().all(allowed) {
            return Err(Error::invalid(
                "/stream",
                format!("a stream on postgres is 1 to {MAX_STREAM_BYTES} of A-Z a-z 0-9 _ and -"),
            ));
        }
        Ok(match stream {
            "fanfare" => stream.to_owned(),
            other => format!("fanfare_{other}"),
        })
    }
}

impl std::fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        f.debug_struct("PostgresConfig")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}
