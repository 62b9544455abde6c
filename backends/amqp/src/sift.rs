//! Taking every message of a queue in hand, letting some go and putting the rest back. Not consuming:
//! for queues of what is seldom looked at.

use std::collections::VecDeque;
use std::sync::Arc;

use fanfare_core::error::Result;
use futures::future::try_join_all;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};

use parking_lot::Mutex;

use crate::connect::Line;

/// How many are asked for at a time.
const AHEAD: usize = 64;
/// How many acknowledgements a queue is told of before it is asked something: a channel sends it some 32
/// ahead of its answers, and forgets the others when it is closed.
const AT_ONCE: usize = 16;

/// What is in hand. All that is not let go is back when the value is dropped, and its channel with it.
pub(crate) struct Sift {
    line: Arc<Line>,
    channel: Channel,
    queue: String,
    /// In hand, and not looked at yet.
    ahead: Mutex<VecDeque<Delivery>>,
}

impl Sift {
    /// Over a channel of its own.
    pub(crate) async fn open(line: &Arc<Line>, queue: String) -> Result<Self> {
        Ok(Self {
            line: line.clone(),
            channel: line.channel().await?,
            queue,
            ahead: Mutex::default(),
        })
    }

    /// Where messages, and what becomes of them, are written.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The next one that nobody has in hand.
    pub(crate) async fn next(&self) -> Result<Option<Delivery>> {
        if let Some(message) = self.ahead.lock().pop_front() {
            return Ok(Some(message));
        }
        let got = try_join_all((0..AHEAD).map(|_| self.get())).await?;
        let mut ahead = self.ahead.lock();
        ahead.extend(got.into_iter().flatten());
        Ok(ahead.pop_front())
    }

    async fn get(&self) -> Result<Option<Delivery>> {
        let queue = self.queue.as_str().into();
        let got = self.channel.basic_get(queue, BasicGetOptions::default());
        Ok(self.line.ask(got).await?.map(|got| got.delivery))
    }

    /// So many of them at the same time; fewer where there are no more.
    pub(crate) async fn some(&self, count: usize) -> Result<Vec<Delivery>> {
        let mut some: Vec<_> = {
            let mut ahead = self.ahead.lock();
            let there = count.min(ahead.len());
            ahead.drain(..there).collect()
        };
        let missing = count - some.len();
        let got = try_join_all((0..missing).map(|_| self.get())).await?;
        some.extend(got.into_iter().flatten());
        Ok(some)
    }

    /// Lets these go for good. Before, all others are in hand.
    pub(crate) async fn let_go(&self, tags: &[u64]) -> Result<()> {
        for some in tags.chunks(AT_ONCE) {
            for tag in some {
                let acked = self.channel.basic_ack(*tag, BasicAckOptions::default());
                self.line.ask(acked).await?;
            }
            // Answered behind them. What came meanwhile goes back with the rest.
            self.get().await?;
        }
        Ok(())
    }

    /// The rest goes back, in one step.
    pub(crate) async fn put_back(self) -> Result<()> {
        let rest = BasicNackOptions {
            multiple: true,
            requeue: true,
        };
        self.line.ask(self.channel.basic_nack(0, rest)).await?;
        // Where this fails the channel has ended with its connection.
        let _ = self.channel.close(200, "done".into()).await;
        Ok(())
    }
}
