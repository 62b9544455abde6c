//! The options of the NATS backend.

use std::time::Duration;

use fanfare_core::clock::Clock;
use fanfare_core::error::{Error, Result};

use crate::form::Form;

/// The longest name of a stream.
const MAX_STREAM_BYTES: usize = 128;

/// Server, stream, bounds and clock.
#[derive(Clone)]
pub struct NatsConfig {
    /// `nats://user:password@host:port`, several separated by commas; `tls://` to insist on an
    /// encrypted connection.
    pub url: String,
    /// The stream's name: 1 to 128 of `A-Z a-z 0-9 _ -`. On the server it is the JetStream streams
    /// `fanfare_NAME` (the log) and `fanfarestate_NAME` (subscriptions, dead letters, values). Where
    /// the form is that of another service, the log is that service's stream of this very name.
    pub stream: String,
    /// What stands in the messages of the log. Default: frames of our own.
    pub form: Form,
    /// The most bytes of events kept; publishers get [`Full`](fanfare_core::ErrorKind::Full) when
    /// nothing can be removed. 0: as much as the server has. Default 0. Holds from the creation of
    /// the stream on.
    pub max_bytes: u64,
    /// How long events are kept after every subscription has settled them. Default 7 days.
    pub retention: Duration,
    /// How long the server remembers the ids of published events; each costs it memory. Default
    /// 2 minutes. Holds from the creation of the stream on.
    pub dedup_window: Duration,
    /// On how many servers of a cluster both streams are kept, 1 to 5. Default 1. Holds from the
    /// creation of the stream on.
    pub replicas: usize,
    /// The most bytes of data in one event. Default 16 MiB; the server's `max_payload` (1 MiB unless
    /// set otherwise) is usually lower and holds as well.
    pub max_data_bytes: usize,
    /// The most bytes of recent events held in memory for the subscriptions of this process.
    /// Default 16 MiB.
    pub cache_bytes: usize,
    /// How long connecting may take. Default 5 s.
    pub connect_timeout: Duration,
    /// How long an answer may take. Default 10 s.
    pub response_timeout: Duration,
    /// How long a publish waits for a server that cannot be reached. Default 10 s.
    pub publish_timeout: Duration,
    /// Time here; leases and delays are kept by the server's, as far as it is known.
    pub clock: Clock,
}

impl NatsConfig {
    /// The defaults, on this server and stream.
    pub fn new(url: impl Into<String>, stream: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            stream: stream.into(),
            form: Form::default(),
            max_bytes: 0,
            retention: Duration::from_hours(168),
            dedup_window: Duration::from_mins(2),
            replicas: 1,
            max_data_bytes: 16 << 20,
            cache_bytes: 16 << 20,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(10),
            publish_timeout: Duration::from_secs(10),
            clock: Clock::system(),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let length = (1..=MAX_STREAM_BYTES).contains(&self.stream.len());
        if !length || !self.stream.chars().all(allowed) {
            let detail =
                format!("a stream on nats is 1 to {MAX_STREAM_BYTES} of A-Z a-z 0-9 _ and -");
            return Err(Error::invalid("/stream", detail));
        }
        if !(1..=5).contains(&self.replicas) {
            return Err(Error::invalid("/replicas", "replicas are 1 to 5"));
        }
        match &self.form {
            Form::Frames => Ok(()),
            Form::Messages(form) => form.check(),
        }
    }
}

impl std::fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        f.debug_struct("NatsConfig")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}
