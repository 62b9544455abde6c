//! A channel on which any number of tasks publish at once, each told of its own. Not what a confirmation
//! means.

use std::future::poll_fn;
use std::ops::Deref;
use std::sync::Arc;

use fanfare_core::error::Result;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, PublisherConfirm};
use parking_lot::Mutex;

use crate::error;

/// A channel that confirms what is published.
#[derive(Debug, Clone)]
pub(crate) struct Pen {
    channel: Channel,
    /// The client library counts a publish before it queues it, and knows its confirmation by that number.
    /// Of two that come between each other the one would be told what became of the other.
    in_order: Arc<Mutex<()>>,
}

impl Pen {
    pub(super) async fn new(channel: Channel) -> Result<Self> {
        let options = ConfirmSelectOptions::default();
        let confirming = channel.confirm_select(options).await;
        confirming.map_err(error::of)?;
        Ok(Self {
            channel,
            in_order: Arc::default(),
        })
    }

    /// Instead of the channel's own.
    pub(crate) async fn basic_publish(
        &self,
        exchange: ShortString,
        key: ShortString,
        options: BasicPublishOptions,
        data: &[u8],
        properties: BasicProperties,
    ) -> lapin::Result<PublisherConfirm> {
        let mut publishing = Box::pin(
            self.channel
                .basic_publish(exchange, key, options, data, properties),
        );
        // Counted and queued is all in the first step, which waits for nothing.
        poll_fn(|context| {
            let _one = self.in_order.lock();
            publishing.as_mut().poll(context)
        })
        .await
    }
}

impl Deref for Pen {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}
