//! What stands on the broker: names, the exchange, the queues and what binds them. Not what is in them.

use std::time::Duration;

use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::pattern::PatternSet;
use fanfare_core::subscription::{Start, SubscriptionName, SubscriptionSpec};
use futures::future::try_join_all;
use lapin::options::{
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, ExchangeKind};

use crate::backend::{Stream, place_at};
use crate::register::Held;
use crate::sift::Sift;
use crate::subscription::{Book, Stored, keys};
use crate::wire::Note;
use crate::{error, wire};

/// The steps of the retry grid within a factor of ten: a delay is rounded up to the next.
const STEPS: [u64; 10] = [10, 13, 16, 20, 25, 32, 40, 50, 63, 80];
/// How often a queue may give a message back before it throws it away, which newer servers do after 20
/// times unless told otherwise. When to give up is for the retry policy to say.
const RETURNS: i32 = i32::MAX;
/// Why what others declared is in no order.
const THEIRS: &str =
    "a queue of somebody else's gives events to whoever consumes there: no order can be kept";
/// The queue, in the stream, of what is written only to hear when. It keeps one message.
pub(crate) const WRITTEN: &str = "written";
/// How many messages are moved from queue to queue at a time.
const MOVED_AT_ONCE: usize = 500;

impl Stream {
    /// `S.<part>`.
    pub(crate) fn part(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    /// Where events are published.
    pub(crate) fn exchange_name(&self) -> &str {
        let theirs = self.line.config.exchange.as_deref();
        theirs.unwrap_or(&self.name)
    }

    /// Where a subscription's events come in.
    pub(crate) fn queue_of(&self, name: &SubscriptionName) -> String {
        match self.their_queue(name) {
            Some(theirs) => theirs.to_owned(),
            None => self.part(&format!("s.{name}")),
        }
    }

    fn their_queue(&self, name: &SubscriptionName) -> Option<&str> {
        let (of, queue) = self.line.config.queue.as_ref()?;
        (of == name).then_some(queue)
    }

    /// Whether it can be kept.
    pub(crate) fn check_order(&self, spec: &SubscriptionSpec) -> Result<()> {
        if spec.ordered && self.their_queue(&spec.name).is_some() {
            return Err(Error::new(ErrorKind::Unsupported, THEIRS));
        }
        Ok(())
    }

    /// Where those of a subscription wait that are to run alone.
    pub(crate) fn alone_of(&self, name: &SubscriptionName) -> String {
        self.part(&format!("q.{name}"))
    }

    /// Whether the server itself may move what is to run alone. What others wrote it would strip of its
    /// routing key, which tells its type; and nothing of an ordered subscription is ever moved.
    pub(crate) fn passes_on(&self, spec: &SubscriptionSpec) -> bool {
        let config = &self.line.config;
        let ours = config.form.is_none() && config.exchange.is_none() && config.queue.is_none();
        ours && !spec.ordered
    }

    /// Where its dead letters are.
    pub(crate) fn dead_of(&self, name: &SubscriptionName) -> String {
        self.part(&format!("dead.{name}"))
    }

    fn delay_of(&self, name: &SubscriptionName, millis: u64) -> String {
        self.part(&format!("d.{name}.{millis}"))
    }

    /// All the queues where deliveries of a subscription wait.
    pub(crate) fn queues_of(&self, name: &SubscriptionName, stored: &Stored) -> Vec<String> {
        let delays = stored.delays.iter().map(|ms| self.delay_of(name, *ms));
        let own = [self.queue_of(name), self.alone_of(name)];
        own.into_iter().chain(delays).collect()
    }

    /// Makes what is not there, and the documents with it, once.
    pub(crate) async fn declare(&self) -> Result<()> {
        if self.is_made().await? {
            // Still: it may be somebody else's, declared otherwise.
            let channel = self.line.channel().await?;
            self.declare_on(&channel).await?;
            let _ = channel.close(200, "done".into()).await;
            return Ok(());
        }
        let held = self.lock.take(&self.line).await?;
        let made = self.make(&held).await;
        held.release().await;
        made
    }

    async fn make(&self, held: &Held) -> Result<()> {
        if self.is_made().await? {
            return Ok(());
        }
        self.declare_on(&held.channel).await?;
        let empty = Book::default();
        held.write(&self.part("book"), &empty, 0, Vec::new())
            .await?;
        let state = self.part("state");
        self.queue(&held.channel, &state, &[]).await?;
        let empty = crate::state::Document::default();
        held.write(&state, &empty, 0, Vec::new()).await
    }

    /// The shared values are what is made last.
    async fn is_made(&self) -> Result<bool> {
        self.is_there(&self.part("state")).await
    }

    pub(crate) async fn is_there(&self, queue: &str) -> Result<bool> {
        let channel = self.line.channel().await?;
        let depth = self.depth(&channel, queue).await?;
        if depth.is_some() {
            let _ = channel.close(200, "done".into()).await;
        }
        Ok(depth.is_some())
    }

    pub(crate) async fn declare_on(&self, channel: &Channel) -> Result<()> {
        self.queue(channel, &self.part("book"), &[]).await?;
        self.declare_written(channel).await?;
        if let Some(theirs) = &self.line.config.exchange {
            return self.find_exchange(channel, theirs).await;
        }
        let unrouted = self.part("unrouted");
        let mut alternate = FieldTable::default();
        alternate.insert("alternate-exchange".into(), wire::text(&unrouted));
        let nothing = FieldTable::default();
        self.exchange(channel, &unrouted, ExchangeKind::Fanout, nothing)
            .await?;
        self.exchange(channel, &self.name, ExchangeKind::Topic, alternate)
            .await?;
        let most = AMQPValue::LongInt(self.line.config.max_unrouted);
        self.queue(channel, &unrouted, &[("x-max-length", most)])
            .await?;
        self.bind(channel, &unrouted, &unrouted, "").await
    }

    pub(crate) async fn declare_written(&self, channel: &Channel) -> Result<()> {
        let one = [("x-max-length", AMQPValue::LongInt(1))];
        self.queue(channel, &self.part(WRITTEN), &one).await
    }

    /// Whether it is there; what it is else is for those to say who declared it.
    pub(crate) async fn find_exchange(&self, channel: &Channel, name: &str) -> Result<()> {
        let options = ExchangeDeclareOptions {
            passive: true,
            ..ExchangeDeclareOptions::default()
        };
        let (kind, nothing) = (ExchangeKind::Topic, FieldTable::default());
        let found = channel.exchange_declare(name.into(), kind, options, nothing);
        self.line.ask(found).await
    }

    async fn exchange(
        &self,
        channel: &Channel,
        name: &str,
        kind: ExchangeKind,
        arguments: FieldTable,
    ) -> Result<()> {
        let options = ExchangeDeclareOptions {
            durable: true,
            ..ExchangeDeclareOptions::default()
        };
        let declared = channel.exchange_declare(name.into(), kind, options, arguments);
        self.line.ask(declared).await
    }

    /// A durable quorum queue.
    async fn queue(
        &self,
        channel: &Channel,
        name: &str,
        arguments: &[(&str, AMQPValue)],
    ) -> Result<()> {
        let mut table = FieldTable::default();
        table.insert("x-queue-type".into(), wire::text("quorum"));
        table.insert("x-delivery-limit".into(), AMQPValue::LongInt(RETURNS));
        for (name, value) in arguments {
            table.insert((*name).into(), value.clone());
        }
        let declared = channel.queue_declare(name.into(), QueueDeclareOptions::durable(), table);
        self.line.ask(declared).await.map(drop)
    }

    pub(crate) async fn bind(
        &self,
        channel: &Channel,
        queue: &str,
        exchange: &str,
        key: &str,
    ) -> Result<()> {
        let (options, table) = (QueueBindOptions::default(), FieldTable::default());
        let bound = channel.queue_bind(queue.into(), exchange.into(), key.into(), options, table);
        self.line.ask(bound).await
    }

    /// How many messages are ready; `None` where there is no such queue. A missing queue closes the
    /// channel.
    pub(crate) async fn depth(&self, channel: &Channel, queue: &str) -> Result<Option<u64>> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let asked = channel.queue_declare(queue.into(), options, FieldTable::default());
        match self.line.limited(async { Ok(asked.await) }).await? {
            Ok(queue) => Ok(Some(u64::from(queue.message_count()))),
            Err(error) if error::is_missing(&error) => Ok(None),
            Err(error) => Err(error::of(error)),
        }
    }

    /// The same of many; a queue that is not there holds none.
    pub(crate) async fn depths(&self, queues: &[String]) -> Result<u64> {
        let mut channel = self.line.channel().await?;
        let mut sum = 0;
        for queue in queues {
            match self.depth(&channel, queue).await? {
                Some(depth) => sum += depth,
                None => channel = self.line.channel().await?,
            }
        }
        let _ = channel.close(200, "done".into()).await;
        Ok(sum)
    }

    /// The queues of a subscription, and in them what nobody wanted so far and it does.
    pub(crate) async fn create(
        &self,
        held: &Held,
        spec: &SubscriptionSpec,
        passes_on: bool,
    ) -> Result<()> {
        self.create_queues(held, spec, passes_on).await?;
        if spec.start != Start::Latest && self.line.config.exchange.is_none() {
            self.fetch_unrouted(spec).await?;
        }
        Ok(())
    }

    pub(crate) async fn create_queues(
        &self,
        held: &Held,
        spec: &SubscriptionSpec,
        passes_on: bool,
    ) -> Result<()> {
        let queue = self.queue_of(&spec.name);
        let (alone, dead) = (self.alone_of(&spec.name), self.dead_of(&spec.name));
        let passing_on = |to: &str| passes_on.then(|| passing_on(to)).into_iter().flatten();
        let back: Vec<_> = passing_on(&queue).collect();
        self.queue(&held.channel, &alone, &back).await?;
        self.queue(&held.channel, &dead, &[]).await?;
        if self.their_queue(&spec.name).is_some() {
            let found = self.depth(&held.channel, &queue).await?;
            return found.map(drop).ok_or_else(|| error::deleted(&queue));
        }
        let arguments = if spec.ordered {
            vec![("x-single-active-consumer", AMQPValue::Boolean(true))]
        } else {
            passing_on(&alone).collect()
        };
        self.queue(&held.channel, &queue, &arguments).await?;
        for key in keys(&spec.patterns) {
            self.bind(&held.channel, &queue, self.exchange_name(), &key)
                .await?;
        }
        Ok(())
    }

    async fn fetch_unrouted(&self, spec: &SubscriptionSpec) -> Result<()> {
        let mut sift = Sift::open(self, self.part("unrouted")).await?;
        let (mut wanted, mut moving) = (Vec::new(), Vec::new());
        let queue = self.queue_of(&spec.name);
        while let Some((taken, message)) = sift.next().await? {
            let event = wire::event(&message.properties, message.data.clone());
            let wants = event.is_ok_and(|event| spec.patterns.matches(event.event_type()))
                && begins_before(spec.start, wire::note(&message.properties));
            if wants {
                wanted.push(taken);
                moving.push((message.data, message.properties));
            }
            if moving.len() >= MOVED_AT_ONCE {
                self.write_all(&sift, &queue, std::mem::take(&mut moving))
                    .await?;
            }
        }
        self.write_all(&sift, &queue, moving).await?;
        sift.let_go(&wanted).await?;
        sift.put_back().await
    }

    async fn write_all(
        &self,
        sift: &Sift<'_>,
        queue: &str,
        messages: Vec<(Vec<u8>, BasicProperties)>,
    ) -> Result<()> {
        let one = |(data, properties): (Vec<u8>, BasicProperties)| async move {
            let line = &self.line;
            line.write(sift.pen(), queue, &data, properties).await
        };
        try_join_all(messages.into_iter().map(one)).await.map(drop)
    }

    /// Makes the queues of a subscription again that somebody deleted past us, and notes the loss;
    /// `false` where the subscription itself is no more.
    pub(crate) async fn revive(&self, name: &SubscriptionName) -> Result<bool> {
        let held = self.lock.take(&self.line).await?;
        let reviving = async {
            let (mut book, tags): (Book, _) = held.read(&self.part("book")).await?;
            let stored = book.subscriptions.get(name.as_str());
            // Another process may have been first.
            let there = self.is_there(&self.queue_of(name)).await?
                && self.is_there(&self.alone_of(name)).await?
                && self.is_there(&self.dead_of(name)).await?;
            let Some(stored) = stored.filter(|_| !there) else {
                let known = stored.is_some();
                held.put_back(tags).await?;
                return Ok(known);
            };
            self.create_queues(&held, &stored.spec(name)?, stored.passes_on)
                .await?;
            // One whose making broke off held nothing.
            book.losses += u64::from(stored.made);
            self.write_book(&held, book, tags).await?;
            Ok(true)
        };
        let revived = reviving.await;
        held.release().await;
        revived
    }

    /// Deletes the queues of a subscription with all that is in them.
    pub(crate) async fn delete_queues(
        &self,
        held: &Held,
        name: &SubscriptionName,
        stored: &Stored,
    ) -> Result<()> {
        let theirs = self.their_queue(name);
        let mut queues = self.queues_of(name, stored);
        queues.push(self.dead_of(name));
        queues.retain(|queue| Some(queue.as_str()) != theirs);
        for queue in queues {
            self.delays.lock().remove(&queue);
            let options = QueueDeleteOptions::default();
            let deleted = held.channel.queue_delete(queue.into(), options);
            self.line.ask(deleted).await?;
        }
        Ok(())
    }

    /// Binds a subscription's queue with other patterns.
    pub(crate) async fn rebind(
        &self,
        held: &Held,
        name: &SubscriptionName,
        (before, after): (&PatternSet, &PatternSet),
    ) -> Result<()> {
        if self.their_queue(name).is_some() {
            return Ok(());
        }
        let (before, after) = (keys(before), keys(after));
        let queue = self.queue_of(name);
        for key in after.iter().filter(|key| !before.contains(key)) {
            self.bind(&held.channel, &queue, self.exchange_name(), key)
                .await?;
        }
        for key in before.iter().filter(|key| !after.contains(key)) {
            let (queue, exchange) = (queue.as_str().into(), self.exchange_name().into());
            let (key, table) = (key.as_str().into(), FieldTable::default());
            let unbound = held.channel.queue_unbind(queue, exchange, key, table);
            self.line.ask(unbound).await?;
        }
        Ok(())
    }

    /// The queue of a delay, which goes back to the subscription's. It never expires: one that did
    /// could take with it what came in just then.
    pub(crate) async fn delay(&self, name: &SubscriptionName, after: Duration) -> Result<String> {
        let millis = rounded(after);
        let delay = self.delay_of(name, millis);
        if self.delays.lock().contains(&delay) {
            return Ok(delay);
        }
        let _making = self.making.lock().await;
        if self.delays.lock().contains(&delay) {
            return Ok(delay);
        }
        let held = self.lock.take(&self.line).await?;
        let made = self.make_delay(&held, name, millis, &delay).await;
        held.release().await;
        made?;
        self.delays.lock().insert(delay.clone());
        Ok(delay)
    }

    async fn make_delay(
        &self,
        held: &Held,
        name: &SubscriptionName,
        millis: u64,
        delay: &str,
    ) -> Result<()> {
        let ttl = i64::try_from(millis).unwrap_or(i64::MAX);
        let mut arguments = passing_on(&self.queue_of(name)).to_vec();
        arguments.push(("x-message-ttl", AMQPValue::LongLongInt(ttl)));
        // First, as with every queue of a subscription.
        let note = |stored: &mut Stored| {
            if !stored.delays.contains(&millis) {
                stored.delays.push(millis);
            }
            Ok(())
        };
        self.change(held, name, note).await?;
        self.queue(&held.channel, delay, &arguments).await
    }
}

/// What has a queue pass on to another what is over there: it is in one of the two whatever happens.
fn passing_on(to: &str) -> [(&'static str, AMQPValue); 4] {
    [
        ("x-dead-letter-exchange", wire::text("")),
        ("x-dead-letter-routing-key", wire::text(to)),
        ("x-dead-letter-strategy", wire::text("at-least-once")),
        ("x-overflow", wire::text("reject-publish")),
    ]
}

/// Whether what was published there and then belongs to a subscription that starts so.
fn begins_before(start: Start, note: Option<Note>) -> bool {
    let Some(place) = note.map(|note| note.position) else {
        return true;
    };
    match start {
        Start::Earliest => true,
        Start::Latest => false,
        Start::Time(time) => place_at(time) <= place,
        Start::After(position) => place > position,
    }
}

fn rounded(after: Duration) -> u64 {
    let millis = after.as_nanos().div_ceil(1_000_000);
    let millis = u64::try_from(millis).unwrap_or(u64::MAX);
    let mut scale = 100;
    loop {
        let mut steps = STEPS.iter().map(|step| step.saturating_mul(scale));
        match steps.find(|step| *step >= millis) {
            Some(step) => return step,
            None => scale = scale.saturating_mul(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_never_rounded_down_nor_up_by_a_third() {
        for nanos in [
            1_000_000_001,
            1_300_000_000,
            1_300_000_001,
            86_399_999_999_999,
        ] {
            let asked = Duration::from_nanos(nanos);
            let made = Duration::from_millis(rounded(asked));
            assert!(made >= asked, "{made:?} for {asked:?}");
            assert!(made <= asked.mul_f64(1.34), "{made:?} for {asked:?}");
        }
    }
}
