//! A channel that deliveries come over, and how they are let go: all that is asked for meanwhile in one
//! commit, and nobody is told before the broker has written it down. Of single acknowledgements a channel
//! sends a quorum queue some 32 ahead, keeps the rest to itself, and forgets them when it closes; what is
//! committed together is one command.

use std::collections::BTreeSet;

use fanfare_core::error::{Error, ErrorKind, Result};
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use parking_lot::Mutex;
use tokio::sync::{MutexGuard, oneshot};

use crate::backend::Stream;
use crate::connect::Pen;
use crate::topology::WRITTEN;
use crate::{error, wire};

/// A channel that deliveries come over. It commits what it acknowledges, and does nothing else.
pub(crate) struct Way {
    pub(crate) channel: Channel,
    /// Where its deliveries come from.
    queue: String,
    /// Of the same connection; none where nothing outlives the process.
    pen: Option<Pen>,
    tags: Mutex<Tags>,
    waiting: Mutex<Vec<Letting>>,
    turn: tokio::sync::Mutex<()>,
}

/// Who waits for some to be let go.
struct Letting {
    tags: Vec<u64>,
    done: oneshot::Sender<Result<()>>,
}

impl Way {
    /// On a channel that was opened for this.
    pub(crate) fn new(channel: Channel, queue: String, pen: Option<Pen>) -> Self {
        Self {
            channel,
            queue,
            pen,
            tags: Mutex::default(),
            waiting: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Deliveries came.
    pub(crate) fn came(&self, tags: impl Iterator<Item = u64>) {
        self.tags.lock().open.extend(tags);
    }

    /// How many came that are not let go.
    pub(crate) fn open(&self) -> usize {
        self.tags.lock().open.len()
    }

    /// Nothing is let go while this is held, so that the broker gets no room to send more.
    pub(crate) async fn still(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Lets these go, each once however often it is said.
    pub(crate) async fn acknowledge(&self, stream: &Stream, tags: Vec<u64>) -> Result<()> {
        let (done, mut answer) = oneshot::channel();
        self.waiting.lock().push(Letting { tags, done });
        let _turn = self.turn.lock().await;
        // In the turn of another?
        if let Ok(answer) = answer.try_recv() {
            return answer;
        }
        let all = std::mem::take(&mut *self.waiting.lock());
        let (tags, asked): (Vec<_>, Vec<_>) =
            all.into_iter().map(|one| (one.tags, one.done)).unzip();
        let done = self.let_go(stream, tags.concat()).await;
        for one in asked {
            // Who asked may be gone.
            let _ = one.send(done.as_ref().map(drop).map_err(Error::duplicate));
        }
        let lost = |_| Error::new(ErrorKind::Internal, "an acknowledgement broke off");
        answer.await.map_err(lost)?
    }

    async fn let_go(&self, stream: &Stream, tags: Vec<u64>) -> Result<()> {
        let steps = self.tags.lock().close(tags);
        for (tag, multiple) in steps.all() {
            let acked = self.channel.basic_ack(tag, BasicAckOptions { multiple });
            acked.await.map_err(error::of)?;
        }
        self.commit(stream).await?;
        match &self.pen {
            Some(pen) => stream.until_written(pen).await,
            None => Ok(()),
        }
    }

    /// Lets these go to the queue that this one passes on to.
    pub(crate) async fn pass_on(&self, stream: &Stream, tags: Vec<u64>) -> Result<()> {
        if tags.is_empty() {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let steps = self.tags.lock().close(tags);
        for (tag, multiple) in steps.all() {
            let options = BasicNackOptions {
                multiple,
                requeue: false,
            };
            let passed = self.channel.basic_nack(tag, options);
            passed.await.map_err(error::of)?;
        }
        self.commit(stream).await
    }

    /// Gives back all that came and was not let go; nobody may ask for that at the same time.
    pub(crate) async fn put_back(&self, stream: &Stream) -> Result<()> {
        let rest = BasicNackOptions {
            multiple: true,
            requeue: true,
        };
        stream.line.ask(self.channel.basic_nack(0, rest)).await?;
        self.commit(stream).await
    }

    async fn commit(&self, stream: &Stream) -> Result<()> {
        stream.line.ask(self.channel.tx_commit()).await?;
        // The commit is answered before the queue has heard of it; this is answered by the queue.
        let found = stream.depth(&self.channel, &self.queue).await?;
        found.map(drop).ok_or_else(|| error::deleted(&self.queue))
    }
}

impl Stream {
    /// Ends when the broker has written down all that its queues heard before: they have one log, and
    /// what it confirms now stands behind.
    async fn until_written(&self, pen: &Pen) -> Result<()> {
        let queue = self.part(WRITTEN);
        let write = || self.line.write(pen, &queue, b"", wire::plain());
        match write().await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Somebody deleted it.
                self.declare_written(pen).await?;
                write().await
            }
            written => written,
        }
    }
}

/// The delivery tags that are open.
#[derive(Debug, Default)]
struct Tags {
    open: BTreeSet<u64>,
}

/// How to acknowledge some of them.
#[derive(Debug, PartialEq, Eq)]
struct Steps {
    /// Everything up to this one.
    up_to: Option<u64>,
    single: Vec<u64>,
}

impl Steps {
    /// With whether each means all before it too.
    fn all(self) -> impl Iterator<Item = (u64, bool)> {
        let together = self.up_to.into_iter().map(|tag| (tag, true));
        together.chain(self.single.into_iter().map(|tag| (tag, false)))
    }
}

impl Tags {
    /// Closes these; what is not open is left out.
    fn close(&mut self, mut tags: Vec<u64>) -> Steps {
        tags.retain(|tag| self.open.remove(tag));
        tags.sort_unstable();
        let stays = self.open.first().copied().unwrap_or(u64::MAX);
        let single = tags.split_off(tags.partition_point(|tag| *tag < stays));
        Steps {
            up_to: tags.last().copied(),
            single,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_nothing_open_before_it_goes_in_one_step() {
        let mut tags = Tags::default();
        tags.open.extend(1..=9);
        let steps = |up_to, single| Steps { up_to, single };
        assert_eq!(tags.close(vec![3, 5]), steps(None, vec![3, 5]));
        assert_eq!(tags.close(vec![2, 1, 6]), steps(Some(2), vec![6]));
        assert_eq!(tags.close(vec![4, 4, 1]), steps(Some(4), vec![]));
        assert_eq!(tags.close(vec![7, 8, 9]), steps(Some(9), vec![]));
        assert_eq!(tags.close(vec![]), steps(None, vec![]));
    }
}
