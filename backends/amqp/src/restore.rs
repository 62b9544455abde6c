//! The exchange, made again when somebody deleted it past us. Nothing that waits in queues is lost then, but
//! what is published in the moment between making it and binding the last queue reaches only some: so
//! it is told as a loss.

use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::subscription::SubscriptionName;

use crate::backend::Stream;
use crate::error;
use crate::register::Held;
use crate::subscription::{Book, keys};

impl Stream {
    /// Makes it again where it is why something was not published.
    pub(crate) async fn mend_exchange(&self, failures: impl Iterator<Item = &Error>) {
        let is_ours = self.line.config.exchange.is_none();
        if !is_ours || !failures.into_iter().any(is_missing) {
            return;
        }
        match self.restore().await {
            Ok(()) => tracing::warn!(stream = self.name, "its exchange was deleted: made again"),
            Err(error) => tracing::warn!(stream = self.name, %error, "its exchange is not there"),
        }
    }

    /// With all that was bound to it, unless another process was first.
    async fn restore(&self) -> Result<()> {
        let held = self.lock.take(&self.line).await?;
        let restored = self.restore_with(&held).await;
        held.release().await;
        restored
    }

    async fn restore_with(&self, held: &Held) -> Result<()> {
        let asking = self.line.channel().await?;
        match self.find_exchange(&asking, self.exchange_name()).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            found => return found,
        }
        self.declare_on(&held.channel).await?;
        let (mut book, tags): (Book, _) = held.read(&self.part("book")).await?;
        for (name, stored) in &book.subscriptions {
            let name = SubscriptionName::parse(name)?;
            self.create_queues(held, &stored.spec(&name)?, stored.passes_on)
                .await?;
        }
        self.rebind_broadcasts(held).await?;
        book.losses += 1;
        self.write_book(held, book, tags).await
    }

    /// Those of this process; others bind theirs when they meet it.
    async fn rebind_broadcasts(&self, held: &Held) -> Result<()> {
        let hubs: Vec<_> = self.hubs.lock().values().cloned().collect();
        for hub in hubs {
            let spec = hub.desk.lock().spec.clone();
            for key in keys(&spec.patterns).iter().filter(|_| spec.ephemeral) {
                let exchange = self.exchange_name();
                self.bind(&held.channel, &hub.queue, exchange, key).await?;
            }
        }
        Ok(())
    }
}

fn is_missing(failure: &Error) -> bool {
    let source = std::error::Error::source(failure);
    let said = source.and_then(|source| source.downcast_ref::<lapin::Error>());
    said.is_some_and(error::is_missing)
}
