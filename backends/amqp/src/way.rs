//! A channel and what it brought that is not acknowledged yet, so that much of it can be in one step:
//! of many single steps the broker forgets the last when the channel is closed.

use std::collections::BTreeSet;

use fanfare_core::error::Result;
use lapin::Channel;
use lapin::options::BasicAckOptions;
use tokio::sync::Mutex;

use crate::error;

/// A channel that deliveries come over.
pub(crate) struct Way {
    pub(crate) channel: Channel,
    tags: Mutex<Tags>,
}

impl Way {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            channel,
            tags: Mutex::default(),
        }
    }

    /// Deliveries came.
    pub(crate) async fn came(&self, tags: impl Iterator<Item = u64>) {
        self.tags.lock().await.open.extend(tags);
    }

    /// Acknowledges these, each once however often it is said.
    pub(crate) async fn acknowledge(&self, tags: Vec<u64>) -> Result<()> {
        // Kept until all is said: somebody else's step may include what is one of ours.
        let mut open = self.tags.lock().await;
        let steps = open.close(tags);
        let together = steps.up_to.into_iter().map(|tag| (tag, true));
        for (tag, multiple) in together.chain(steps.single.into_iter().map(|tag| (tag, false))) {
            let acked = self.channel.basic_ack(tag, BasicAckOptions { multiple });
            acked.await.map_err(error::of)?;
        }
        Ok(())
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
