//! What every part of the mode needs: the server, the channels, the bounds.

use std::sync::Arc;

use fanfare_cursor::queue::Bounds;
use tokio::sync::watch;

use super::channel::Channels;
use super::config::PubSubConfig;
use crate::connect::Wire;

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) wire: Arc<Wire>,
    pub(super) channels: Channels,
    pub(super) bounds: Bounds,
    /// The list of dead letters.
    pub(super) dead_letters: String,
    pub(super) closed: watch::Sender<bool>,
}

impl Stream {
    pub(super) fn new(config: &PubSubConfig, wire: Arc<Wire>) -> Self {
        Self {
            channels: Channels::new(config.channel_prefix()),
            bounds: Bounds {
                events: config.queue_events,
                bytes: config.queue_bytes,
            },
            dead_letters: config.dead_letters_key(),
            wire,
            closed: watch::Sender::new(false),
        }
    }

    /// What the messages are.
    pub(super) fn form(&self) -> &crate::form::Form {
        &self.wire.config.form
    }
}
