//! Removing a whole stream: exchanges, queues and all that is in them. Not subscriptions of a stream that
//! stays.

use fanfare_core::error::Result;
use fanfare_core::subscription::SubscriptionName;
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};

use crate::backend::{AmqpBackend, Stream};
use crate::config::AmqpConfig;
use crate::register::Held;
use crate::subscription::Book;
use crate::topology::WRITTEN;

impl AmqpBackend {
    /// Removes the stream of this name, with all that belongs to it; what others declared stays. Nobody
    /// may have it open: it would be made again. Fine where there is none. The server tells nobody which
    /// queues it has, so there is no removing of many streams at once.
    pub async fn remove(config: AmqpConfig) -> Result<()> {
        let stream = Stream::new(config);
        let removed = stream.remove().await;
        futures::join!(stream.line.close(), stream.out.close());
        removed
    }
}

impl Stream {
    async fn remove(&self) -> Result<()> {
        let held = self.lock.take(&self.line).await?;
        let removed = self.remove_all(&held).await;
        held.release().await;
        removed
    }

    async fn remove_all(&self, held: &Held) -> Result<()> {
        if self.is_there(&self.part("book")).await? {
            let (book, _): (Book, _) = held.read(&self.part("book")).await?;
            for (name, stored) in &book.subscriptions {
                let name = SubscriptionName::parse(name)?;
                self.delete_queues(held, &name, stored).await?;
            }
        }
        let channel = &held.channel;
        for part in ["unrouted", WRITTEN, "state", "book"] {
            let (queue, options) = (self.part(part), QueueDeleteOptions::default());
            let deleted = channel.queue_delete(queue.as_str().into(), options);
            self.line.ask(deleted).await?;
        }
        for exchange in [self.name.clone(), self.part("unrouted")] {
            let options = ExchangeDeleteOptions::default();
            let deleted = channel.exchange_delete(exchange.as_str().into(), options);
            self.line.ask(deleted).await?;
        }
        Ok(())
    }
}
