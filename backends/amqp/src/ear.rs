//! What comes over a channel, and whether all of it came. The broker numbers what it sends, so an echo
//! of our own says how many deliveries there were before it. Without that, events that got lost on a
//! line which then went on would stay with a consumer that never saw them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::timestamp::Timestamp;
use futures::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{
    BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Consumer};
use tokio::sync::watch;

use crate::connect::{Pen, confirmed};
use crate::error;

/// Names this consumer on its channel, and the one that takes over from it to have more in hand.
const CONSUMER: &str = "fanfare";
const WIDER: &str = "fanfare wider";
/// How many events are handed out at a time.
const AT_ONCE: usize = 256;

type Came = Result<Delivery, lapin::Error>;

/// The only one who consumes on its channel.
pub(crate) struct Ear {
    channel: Channel,
    /// Where echoes are sent.
    pen: Pen,
    coming: Consumer,
    /// Who takes over once that has handed out what it had.
    wider: Option<Consumer>,
    /// The consumer that gets what comes now.
    tag: &'static str,
    echoes: Consumer,
    /// A queue of this connection's own.
    echo: String,
    numbers: Numbers,
    counter: Arc<Echoes>,
    /// An echo was answered within what was handed out last: it counts once that is done with.
    answered: bool,
    /// The consumer was cancelled.
    ended: bool,
}

/// How many there were of a subscription, over all its lines.
#[derive(Debug, Default)]
pub(crate) struct Echoes {
    sent: AtomicU64,
    /// Counted when all that was sent before was handed out by [`Ear::next`] and is done with.
    heard: watch::Sender<u64>,
}

impl Echoes {
    /// Ends when one is heard that is sent from now on; `ask` has it sent, where none is on its way.
    pub(crate) async fn next(&self, ask: impl Fn()) {
        let mut heard = self.heard.subscribe();
        let next = self.sent.load(Ordering::SeqCst) + 1;
        while *heard.borrow_and_update() < next {
            ask();
            // Its sender lives as long as we do.
            let _ = heard.changed().await;
        }
    }
}

impl Ear {
    /// `echo` is a name that no queue has; `window`: the most that may be unsettled.
    pub(crate) async fn open(
        (channel, pen): (&Channel, &Pen),
        (queue, window): (&str, u16),
        echo: String,
        counter: Arc<Echoes>,
    ) -> Result<Self> {
        // One that was on its way over the line before is heard no more.
        counter
            .sent
            .store(*counter.heard.borrow(), Ordering::SeqCst);
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel.queue_declare(echo.as_str().into(), options, FieldTable::default());
        declared.await.map_err(error::of)?;
        let unanswered = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let echoes = consume(channel, &echo, "echo", unanswered).await?;
        Ok(Self {
            channel: channel.clone(),
            pen: pen.clone(),
            coming: hold(channel, queue, CONSUMER, window).await?,
            wider: None,
            tag: CONSUMER,
            echoes,
            echo,
            numbers: Numbers::default(),
            counter,
            answered: false,
            ended: false,
        })
    }

    /// So many more may be unsettled than so far; once. A consumer's window stands for good: what it has stays
    /// with it, and another gets what comes now.
    pub(crate) async fn widen(&mut self, queue: &str, more: u16) -> Result<()> {
        self.cancel().await?;
        self.tag = WIDER;
        self.wider = Some(hold(&self.channel, queue, WIDER, more).await?);
        Ok(())
    }

    /// Nothing is sent any more; what was is still handed out.
    pub(crate) async fn cancel(&self) -> Result<()> {
        let options = BasicCancelOptions::default();
        let cancelled = self.channel.basic_cancel(self.tag.into(), options);
        cancelled.await.map_err(error::of)
    }

    /// The next events, as many as are here; none once the consumer was cancelled, by us or because its
    /// queue is gone. Whoever asks again is done with those before.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Delivery>>> {
        let answered = std::mem::take(&mut self.answered);
        self.count(answered);
        loop {
            if self.ended {
                return Ok(None);
            }
            let echoed = self.numbers.echoed.is_some();
            tokio::select! {
                biased;
                message = self.coming.next() => return self.with_all_here(message).map(Some),
                echo = self.echoes.next(), if !echoed => {
                    let Some(echo) = echo.transpose().map_err(error::of)? else {
                        return Ok(None);
                    };
                    let answered = self.numbers.echo(echo.delivery_tag);
                    self.count(answered);
                }
                // Every event that was sent before the echo is here by now.
                () = std::future::ready(()), if echoed => {
                    self.numbers.quiet()?;
                    self.count(true);
                }
            }
        }
    }

    /// This one and what can be had without waiting.
    fn with_all_here(&mut self, first: Option<Came>) -> Result<Vec<Delivery>> {
        let (mut messages, mut came) = (Vec::new(), Some(first));
        while let Some(message) = came {
            let Some(message) = message.transpose().map_err(error::of)? else {
                match self.wider.take() {
                    Some(wider) => self.coming = wider,
                    None => self.ended = true,
                }
                break;
            };
            self.answered |= self.numbers.event(message.delivery_tag)?;
            messages.push(message);
            if messages.len() == AT_ONCE {
                break;
            }
            came = self.coming.next().now_or_never();
        }
        Ok(messages)
    }

    fn count(&self, answered: bool) {
        if answered {
            self.counter.heard.send_modify(|echoes| *echoes += 1);
        }
    }

    /// Sends an echo on its way unless there is one; an error where that takes longer than `limit`.
    pub(crate) async fn call(&mut self, now: Timestamp, limit: Duration) -> Result<()> {
        if let Some(since) = self.numbers.called {
            return if now.since(since) > limit {
                Err(error::silent())
            } else {
                Ok(())
            };
        }
        self.numbers.called = Some(now);
        self.counter.sent.fetch_add(1, Ordering::SeqCst);
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        let queue = self.echo.as_str().into();
        let called = self
            .pen
            .basic_publish("".into(), queue, options, b"", properties);
        confirmed(called.await.map_err(error::of)?.await)
    }
}

/// What the broker's numbers say. They follow each other, events and echoes together, but the two arrive
/// in streams of their own.
#[derive(Debug, Default)]
struct Numbers {
    /// The last of which nothing is missing, but perhaps an echo.
    last: u64,
    /// Since when an echo is on its way.
    called: Option<Timestamp>,
    /// Left out by the events, so it must be the echo's.
    left_out: Option<u64>,
    /// Of an echo that came before its turn.
    echoed: Option<u64>,
}

impl Numbers {
    /// Whether that answers the echo.
    fn event(&mut self, number: u64) -> Result<bool> {
        let next = self.last + 1;
        let answers = number == next + 1 && self.echoed == Some(next);
        if answers {
            self.answered();
        } else if number == next + 1 && self.called.is_some() && self.left_out.is_none() {
            self.left_out = Some(next);
        } else if number != next {
            return Err(lost(next));
        }
        self.last = number;
        Ok(answers)
    }

    /// The same.
    fn echo(&mut self, number: u64) -> bool {
        let answers = self.left_out.take_if(|left| *left == number).is_some();
        if answers {
            self.answered();
        } else {
            self.echoed = Some(number);
        }
        answers
    }

    /// No event is left that could have been sent before the echo.
    fn quiet(&mut self) -> Result<()> {
        let next = self.last + 1;
        if self.echoed != Some(next) {
            return Err(lost(next));
        }
        self.last = next;
        self.answered();
        Ok(())
    }

    fn answered(&mut self) {
        (self.called, self.echoed) = (None, None);
    }
}

fn lost(number: u64) -> Error {
    let text = format!("delivery {number} got lost on the line");
    Error::new(ErrorKind::Unavailable, text)
}

/// A consumer with so much in hand.
async fn hold(channel: &Channel, queue: &str, tag: &str, window: u16) -> Result<Consumer> {
    let limited = channel.basic_qos(window, BasicQosOptions::default());
    limited.await.map_err(error::of)?;
    consume(channel, queue, tag, BasicConsumeOptions::default()).await
}

async fn consume(
    channel: &Channel,
    queue: &str,
    tag: &str,
    options: BasicConsumeOptions,
) -> Result<Consumer> {
    let consuming = channel.basic_consume(queue.into(), tag.into(), options, FieldTable::default());
    consuming.await.map_err(error::of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called() -> Numbers {
        let mut numbers = Numbers::default();
        numbers.event(1).unwrap();
        numbers.called = Some(Timestamp::EPOCH);
        numbers
    }

    #[test]
    fn an_echo_may_come_before_and_after_the_events_around_it() {
        let mut numbers = called();
        numbers.event(2).unwrap();
        numbers.event(4).unwrap();
        numbers.event(5).unwrap();
        numbers.echo(3);
        assert!(numbers.called.is_none() && numbers.echoed.is_none());
        numbers.called = Some(Timestamp::EPOCH);
        numbers.echo(7);
        numbers.event(6).unwrap();
        numbers.event(8).unwrap();
        numbers.called = Some(Timestamp::EPOCH);
        numbers.echo(9);
        numbers.quiet().unwrap();
        numbers.event(10).unwrap();
    }

    #[test]
    fn what_got_lost_is_noticed_by_the_next_event_or_echo() {
        assert!(called().event(4).is_err());
        let mut numbers = called();
        numbers.event(3).unwrap();
        assert!(numbers.event(5).is_err());
        let mut numbers = called();
        numbers.echo(4);
        numbers.event(2).unwrap();
        assert!(numbers.quiet().is_err());
        assert!(Numbers::default().event(2).is_err());
    }
}
