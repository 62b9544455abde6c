//! Taking every message of a queue in hand, letting some go and putting the rest back. Not for queues that
//! anybody else consumes from.

use fanfare_core::error::{Error, ErrorKind, Result};
use futures::StreamExt;
use lapin::Consumer;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;

use crate::backend::Stream;
use crate::connect::Pen;
use crate::way::Way;
use crate::{config, error};

/// The most that a quorum queue gives a consumer. One that asks for each message is a consumer to the
/// queue each time, and of more than 32 it mixes up what they had (`suspects`).
const HANDFUL: u16 = config::MOST;

/// What is in hand. All that is not let go is back when the value is dropped, and its channels with it.
pub(crate) struct Sift<'a> {
    stream: &'a Stream,
    queue: String,
    pen: Pen,
    hands: Vec<Hand>,
    /// How many there are that nobody has looked at.
    left: u64,
}

/// A consumer with a channel of its own.
struct Hand {
    way: Way,
    coming: Consumer,
    room: u16,
}

/// One that is in hand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Taken {
    hand: usize,
    tag: u64,
}

impl<'a> Sift<'a> {
    /// Over channels of its own, all that is there now.
    pub(crate) async fn open(stream: &'a Stream, queue: String) -> Result<Self> {
        let pen = stream.line.channel().await?;
        let there = stream.depth(&pen, &queue).await?;
        Ok(Self {
            left: there.ok_or_else(|| error::deleted(&queue))?,
            stream,
            queue,
            pen,
            hands: Vec::new(),
        })
    }

    /// Where messages, and what becomes of them, are written.
    pub(crate) fn pen(&self) -> &Pen {
        &self.pen
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Result<Option<(Taken, Delivery)>> {
        if self.left == 0 {
            return Ok(None);
        }
        if self.hands.last().is_none_or(|hand| hand.room == 0) {
            let hand = self.reach().await?;
            self.hands.push(hand);
        }
        let number = self.hands.len() - 1;
        let Some(hand) = self.hands.last_mut() else {
            return Ok(None);
        };
        let coming = async { Ok(hand.coming.next().await) };
        let message = self.stream.line.limited(coming).await?;
        let ended = || Error::new(ErrorKind::Unavailable, "the channel is broken");
        let message = message.ok_or_else(ended)?.map_err(error::of)?;
        hand.way.came([message.delivery_tag].into_iter());
        hand.room -= 1;
        self.left -= 1;
        let taken = Taken {
            hand: number,
            tag: message.delivery_tag,
        };
        Ok(Some((taken, message)))
    }

    async fn reach(&self) -> Result<Hand> {
        let line = &self.stream.line;
        let channel = line.committing().await?;
        let (qos, options) = (BasicQosOptions::default(), BasicConsumeOptions::default());
        line.ask(channel.basic_qos(HANDFUL, qos)).await?;
        let queue = self.queue.as_str().into();
        let coming = channel.basic_consume(queue, "sift".into(), options, FieldTable::default());
        Ok(Hand {
            coming: line.ask(coming).await?,
            way: Way::new(channel, self.queue.clone(), Some(self.pen.clone())),
            room: HANDFUL,
        })
    }

    /// Lets these go for good.
    pub(crate) async fn let_go(&self, these: &[Taken]) -> Result<()> {
        for (number, hand) in self.hands.iter().enumerate() {
            let of_it = these.iter().filter(|taken| taken.hand == number);
            let tags: Vec<_> = of_it.map(|taken| taken.tag).collect();
            if !tags.is_empty() {
                hand.way.acknowledge(self.stream, tags).await?;
            }
        }
        Ok(())
    }

    /// The rest goes back.
    pub(crate) async fn put_back(self) -> Result<()> {
        for hand in &self.hands {
            hand.way.put_back(self.stream).await?;
        }
        let channels = self.hands.iter().map(|hand| &hand.way.channel);
        for channel in channels.chain([&*self.pen]) {
            // Where this fails the channel has ended with its connection.
            let _ = channel.close(200, "done".into()).await;
        }
        Ok(())
    }
}
