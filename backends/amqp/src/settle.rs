//! Settling: what the broker must know of it is written and confirmed before the message is let go.

use std::sync::Arc;
use std::time::Duration;

use fanfare_core::delivery::{Receipt, Settled, Settlement};
use fanfare_core::error::{Error, ErrorKind, Result};
use futures::future::join_all;
use futures::join;

use crate::connect::Pen;
use crate::desk::{Ending, Exhausted, Item};
use crate::hub::{Channels, Hub};
use crate::way::Way;
use crate::wire::{self, Note};

/// Retries that come back sooner wait in memory, unacknowledged.
pub(crate) const SHORT_RETRY: Duration = Duration::from_secs(1);

type Begun = Result<(Ending, Settlement), Settled>;

impl Hub {
    /// In a task of its own: who asked may go away when half of it is done.
    pub(crate) async fn settle(
        self: &Arc<Self>,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        let hub = self.clone();
        let settling = tokio::spawn(async move { hub.settle_all(settlements).await });
        let lost = |e| Error::new(ErrorKind::Internal, "a settlement broke off").because(e);
        settling.await.map_err(lost)?
    }

    async fn settle_all(&self, settlements: Vec<(Receipt, Settlement)>) -> Result<Vec<Settled>> {
        let clock = &self.stream.line.config.clock;
        let begun: Vec<Begun> = {
            let (receipts, with): (Vec<_>, Vec<_>) = settlements.into_iter().unzip();
            let endings = self.desk.lock().begin(&receipts, clock.now());
            let both = |(ending, with): (Result<_, _>, _)| ending.map(|ending| (ending, with));
            endings.into_iter().zip(with).map(both).collect()
        };
        let made = self.make(&begun).await;
        let (mut desk, now) = (self.desk.lock(), clock.now());
        if let Err(error) = made {
            for (ending, _) in begun.iter().flatten() {
                desk.take_back(ending, now);
            }
            return Err(error);
        }
        let end = |one: Begun| match one {
            Err(refused) => refused,
            Ok((ending, with)) => {
                desk.finish(&ending, &with);
                let with = match with {
                    Settlement::Retry { after, .. } if self.leaves(after) => Settlement::Drop,
                    with => with,
                };
                desk.end(&ending, with, now)
            }
        };
        let answers = begun.into_iter().map(end).collect();
        drop(desk);
        self.wake.notify_waiters();
        Ok(answers)
    }

    /// Whatever the broker must know of these settlements; confirmed where something is written.
    async fn make(&self, begun: &[Begun]) -> Result<()> {
        let told: Vec<_> = begun.iter().flatten().collect();
        if told.is_empty() {
            return Ok(());
        }
        let channels = self.channels()?;
        let stale = {
            let desk = self.desk.lock();
            told.iter()
                .any(|(ending, _)| !desk.is_current(&ending.item))
        };
        if stale {
            let text = "what was held before the break has not come again yet";
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        let (plain, others): (Vec<_>, Vec<_>) = told
            .iter()
            .copied()
            .partition(|(_, with)| matches!(with, Settlement::Ack | Settlement::Drop));
        let writes = others
            .iter()
            .map(|(ending, with)| self.write(&channels.pen, ending, with));
        let written = join_all(writes).await;
        let mut all_written = Ok(());
        let mut done: Vec<_> = plain.iter().map(|(ending, _)| &ending.item).collect();
        for ((ending, _), written) in others.iter().zip(written) {
            match written {
                Ok(true) => done.push(&ending.item),
                Ok(false) => {}
                Err(error) => all_written = Err(error),
            }
        }
        self.acknowledge(&channels, done).await?;
        all_written?;
        if self.ordered {
            self.write_down_settled(&told).await?;
        }
        Ok(())
    }

    /// Writes what must be kept of a settlement; whether the message itself is then done with.
    async fn write(&self, pen: &Pen, ending: &Ending, with: &Settlement) -> Result<bool> {
        let now = self.stream.now();
        let attempts = self.desk.lock().attempts(ending);
        match with {
            Settlement::Ack | Settlement::Drop => Ok(true),
            Settlement::Release => Ok(false),
            Settlement::Retry { after, .. } if !self.leaves(*after) => Ok(false),
            Settlement::Retry { after, .. } => {
                let queue = self.stream.delay(&self.name, *after).await?;
                let note = Note {
                    attempts,
                    first_failure: ending.item.note.first_failure.or(Some(now)),
                    ..ending.item.note
                };
                let sent = self.send(pen, &queue, &ending.item, note).await;
                if sent
                    .as_ref()
                    .is_err_and(|e| e.kind() == ErrorKind::NotFound)
                {
                    // Somebody deleted it: the next one makes it again.
                    self.stream.delays.lock().remove(&queue);
                }
                sent.map(|()| true)
            }
            Settlement::DeadLetter { reason, error } => {
                let what = (reason.as_str(), error.as_str(), attempts);
                let buried = self.stream.bury(pen, &self.name, &ending.item, what);
                buried.await.map(|()| true)
            }
        }
    }

    /// Whether a retry goes back to the broker. What does not outlive its process stays with it, and
    /// what would lose its place.
    fn leaves(&self, after: Duration) -> bool {
        self.alone.is_some() && !self.ordered && after > SHORT_RETRY
    }

    pub(crate) async fn send(&self, pen: &Pen, queue: &str, item: &Item, note: Note) -> Result<()> {
        let properties = wire::properties(&item.event, &note);
        let line = &self.stream.line;
        line.write(pen, queue, item.event.bytes(), properties).await
    }

    /// Lets these messages go.
    pub(crate) async fn acknowledge(
        &self,
        channels: &Channels,
        items: impl IntoIterator<Item = &Item>,
    ) -> Result<()> {
        let (alone, main): (Vec<&Item>, Vec<&Item>) =
            items.into_iter().partition(|item| item.alone);
        let of = async |way: &Way, items: Vec<&Item>| {
            if items.is_empty() {
                return Ok(());
            }
            let tags = items.into_iter().map(|item| item.tag).collect();
            way.acknowledge(&self.stream, tags).await
        };
        let (main, alone) = join!(of(&channels.main, main), of(&channels.alone, alone));
        main.and(alone)
    }

    /// Buries what ran out of attempts, or lets it go.
    pub(crate) async fn bury(&self, exhausted: Vec<Exhausted>) -> Result<()> {
        let channels = self.channels()?;
        for one in exhausted {
            if let Some(error) = &one.error {
                let what = ("max_attempts", error.as_str(), one.attempts);
                let pen = &channels.pen;
                let buried = self.stream.bury(pen, &self.name, &one.item, what);
                buried.await?;
            }
            if self.desk.lock().is_current(&one.item) {
                self.acknowledge(&channels, [&one.item]).await?;
            }
        }
        Ok(())
    }
}
