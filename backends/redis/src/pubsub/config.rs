//! The options of the Pub/Sub mode.

use crate::config::RedisConfig;
use crate::form::Form;

/// Server, channels and bounds. Of the server's options those about keeping events mean nothing here.
#[derive(Debug, Clone)]
pub struct PubSubConfig {
    /// The server, the form of messages, and the stream. Channels are the stream's name, a colon and
    /// the event type; where the form is that of other services the stream's name is the whole
    /// prefix of their channels, such as `events.`.
    pub server: RedisConfig,
    /// The list in which dead letters are kept. Default: `{stream}:ff:dlq`, and `dlq:events` where
    /// the form is that of other services and the server is no cluster: there it has to be on the
    /// stream's server.
    pub dead_letters: Option<String>,
    /// The most unsettled events of one subscription in this process. Beyond it nothing more is read
    /// from its connection. Default 10,000.
    pub queue_events: usize,
    /// The most bytes of unsettled events of one subscription in this process; one event may exceed
    /// it. Default 16 MiB.
    pub queue_bytes: usize,
}

impl PubSubConfig {
    /// The defaults, on this server.
    pub fn new(server: RedisConfig) -> Self {
        Self {
            server,
            dead_letters: None,
            queue_events: 10_000,
            queue_bytes: 16 << 20,
        }
    }

    pub(super) fn channel_prefix(&self) -> String {
        match self.server.form {
            Form::Frames => format!("{}:", self.server.stream),
            Form::Entries(_) => self.server.stream.clone(),
        }
    }

    pub(super) fn dead_letters_key(&self) -> String {
        match (&self.dead_letters, &self.server.form) {
            (Some(key), _) => key.clone(),
            (None, Form::Entries(_)) if !self.server.url.contains("+cluster:") => {
                "dlq:events".into()
            }
            (None, _) => format!("{}dlq", self.server.prefix()),
        }
    }
}
