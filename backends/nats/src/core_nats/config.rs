//! The options of the mode core.

use fanfare_cursor::queue::Bounds;

use crate::config::NatsConfig;

/// Server, stream and bounds. Of the server's options those about keeping events mean nothing here.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// The server and the stream. Subjects are `fanfare.c.STREAM.e.` and the event type.
    pub server: NatsConfig,
    /// The most unsettled events of one subscription in this process. What comes beyond it is
    /// dropped, for that subscription alone, and told. Default 65,536.
    pub queue_events: usize,
    /// The most bytes of unsettled events of one subscription in this process; one event may exceed
    /// it. Default 64 MiB.
    pub queue_bytes: usize,
    /// The most dead letters in this process; beyond it the oldest is dropped, and told. Default
    /// 10,000.
    pub dead_letters: usize,
}

impl CoreConfig {
    /// The defaults, on this server.
    pub fn new(server: NatsConfig) -> Self {
        Self {
            server,
            queue_events: 65_536,
            queue_bytes: 64 << 20,
            dead_letters: 10_000,
        }
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            events: self.queue_events,
            bytes: self.queue_bytes,
        }
    }
}
