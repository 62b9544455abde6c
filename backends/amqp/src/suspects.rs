//! What was with somebody who died: it waits in a queue of its own, from which a member takes one when
//! it has nothing else. So whoever dies then died of that one, and the broker remembers it: what it
//! gives out of this queue again counts one attempt more. Not how members of one process take over
//! from each other: that is the desk's.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fanfare_core::error::Result;
use futures::future::try_join_all;
use lapin::options::BasicGetOptions;

use crate::desk::Item;
use crate::error;
use crate::hub::{Channels, Hub};

/// The most that a process has in hand at a time. Each is a consumer to the queue; of more than 32 that
/// end together it gives back what they had in an order that is another when the server, killed, works
/// through its log again, and then takes other messages for settled than those that were.
const AT_ONCE: usize = 16;
/// How often, and how long after each other, one looks whether what was passed on is there.
const LOOKS: usize = 20;
const LOOK: Duration = Duration::from_millis(5);

impl Hub {
    /// Whether, for all we know, there is something to run alone.
    pub(crate) fn alone_waits(&self) -> bool {
        self.alone_waits.load(Ordering::Relaxed)
    }

    fn expect_alone(&self, waits: bool) {
        self.alone_waits.store(waits, Ordering::Relaxed);
        self.wake.notify_waiters();
    }

    /// Looks whether there is something to run alone, whoever left it.
    pub(crate) async fn look_for_alone(&self, channels: &Channels) -> Result<()> {
        let Some(queue) = &self.alone else {
            return Ok(());
        };
        let dead = self.stream.dead_of(&self.name);
        let mut depth = 0;
        for queue in [&dead, queue] {
            let found = self.stream.depth(&channels.alone.channel, queue).await?;
            depth = found.ok_or_else(|| error::deleted(queue))?;
        }
        // Also for who could not fetch it before.
        if depth > 0 || self.alone_waits() {
            self.expect_alone(depth > 0);
        }
        Ok(())
    }

    /// Takes one in hand, in a task of its own: who asked for it may go away meanwhile.
    pub(crate) async fn fetch_alone(self: &Arc<Self>) {
        let hub = self.clone();
        let fetched = tokio::spawn(async move { hub.fetch().await }).await;
        if let Ok(Err(error)) = fetched {
            // It is there still, once there is a line again.
            tracing::debug!(subscription = %self.name, %error, "nothing fetched to run alone");
        }
    }

    /// Takes in hand again what was there when the line broke, before others do.
    pub(crate) async fn reclaim_alone(&self) -> Result<()> {
        let held = self.desk.lock().alone();
        for _ in 0..held {
            self.expect_alone(true);
            self.fetch().await?;
        }
        Ok(())
    }

    async fn fetch(&self) -> Result<()> {
        let Some(queue) = &self.alone else {
            return Ok(());
        };
        let _one = self.fetching.lock().await;
        let channels = self.channels()?;
        let full = channels.alone.open() >= AT_ONCE;
        if full || !self.alone_waits.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let fetching = async {
            let (channel, options) = (&channels.alone.channel, BasicGetOptions::default());
            let got = channel.basic_get(queue.as_str().into(), options).await;
            got.map_err(error::of)
        };
        let fetched = self.stream.line.limited(fetching).await;
        if matches!(fetched, Ok(None)) {
            return Ok(());
        }
        // Whoever waits would try again at once, and without a line do nothing else.
        self.alone_waits.store(true, Ordering::Relaxed);
        match fetched? {
            Some(got) => self.take(&channels, vec![got.delivery], true).await,
            None => Ok(()),
        }
    }

    /// What has rested long enough is to run alone.
    pub(crate) async fn isolate(&self, channels: &Channels) -> Result<()> {
        let Some(queue) = &self.alone else {
            return Ok(());
        };
        let (rested, spent) = {
            let mut desk = self.desk.lock();
            let rested = desk.rested(self.stream.now());
            let spent: Vec<_> = rested.iter().filter_map(|item| desk.spent(item)).collect();
            (rested, spent)
        };
        let is_spent = |at| spent.iter().any(|one| one.item.note.position == at);
        let kept = rested.iter().filter(|item| !is_spent(item.note.position));
        if self.passes_on {
            self.pass_on(channels, queue, kept.collect()).await?;
        } else {
            self.write_anew(channels, queue, kept.collect()).await?;
        }
        self.expect_alone(true);
        self.bury(spent).await
    }

    /// The server moves these, so that they are in one place whatever breaks. What ran alone comes round by
    /// way of the subscription's queue, for none can pass on to itself; the server counts how often, which
    /// is one attempt each.
    async fn pass_on(&self, channels: &Channels, to: &str, items: Vec<&Item>) -> Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        let (alone, main): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| item.alone);
        let tags = |items: Vec<&Item>| items.iter().map(|item| item.tag).collect();
        channels.alone.pass_on(&self.stream, tags(alone)).await?;
        if main.is_empty() {
            return Ok(());
        }
        channels.main.pass_on(&self.stream, tags(main)).await?;
        self.until_passed(channels, to).await
    }

    /// What ran alone has one attempt more than its message says.
    async fn write_anew(&self, channels: &Channels, to: &str, items: Vec<&Item>) -> Result<()> {
        let writes = items
            .iter()
            .map(|item| self.send(&channels.pen, to, item, item.note));
        try_join_all(writes).await?;
        self.acknowledge(channels, items).await
    }

    /// Waits a moment for the first to be there, which nobody is told of.
    async fn until_passed(&self, channels: &Channels, queue: &str) -> Result<()> {
        for _ in 0..LOOKS {
            if self.stream.depth(&channels.alone.channel, queue).await? != Some(0) {
                break;
            }
            self.stream.line.config.clock.sleep(LOOK).await;
        }
        Ok(())
    }
}
