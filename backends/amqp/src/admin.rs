//! Operating subscriptions: the book says which there are, their queues what waits for them.

use std::sync::Arc;

use async_trait::async_trait;
use fanfare_core::admin::{
    Admin, Audited, Counts, Health, Put, SeekTo, Sought, StreamStats, SubscriptionInfo,
};
use fanfare_core::advice::Advice;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::pattern::PatternSet;
use fanfare_core::position::Position;
use fanfare_core::subscription::{SubscriptionName, SubscriptionSpec};

use crate::backend::{AmqpBackend, Stream, locked};
use crate::error;
use crate::hub::Hub;
use crate::register::Held;
use crate::subscription::{Book, Stored, unknown};

/// How often counts are read where events keep coming: then they are what was so some time ago.
const READINGS: u32 = 5;

impl Stream {
    fn book(&self) -> String {
        self.part("book")
    }

    pub(crate) async fn read_book(&self, held: &Held) -> Result<Book> {
        let (book, tags) = held.read(&self.book()).await?;
        held.put_back(tags).await?;
        Ok(book)
    }

    pub(crate) async fn stored(&self, name: &SubscriptionName) -> Result<Stored> {
        let held = self.lock.take(&self.line).await?;
        let book = self.read_book(&held).await;
        held.release().await;
        let mut book = book?;
        book.subscriptions
            .remove(name.as_str())
            .ok_or_else(|| unknown(name))
    }

    /// Changes what the book says of one subscription.
    pub(crate) async fn change<T>(
        &self,
        held: &Held,
        name: &SubscriptionName,
        how: impl FnOnce(&mut Stored) -> Result<T>,
    ) -> Result<T> {
        let (mut book, tags): (Book, _) = held.read(&self.book()).await?;
        let stored = book.subscriptions.get_mut(name.as_str());
        let changed = how(stored.ok_or_else(|| unknown(name))?)?;
        self.write_book(held, book, tags).await?;
        Ok(changed)
    }

    /// The same, under the lock.
    pub(crate) async fn note<T>(
        &self,
        name: &SubscriptionName,
        how: impl FnOnce(&mut Stored) -> Result<T>,
    ) -> Result<T> {
        let held = self.lock.take(&self.line).await?;
        let changed = self.change(&held, name, how).await;
        held.release().await;
        changed
    }

    pub(crate) async fn write_book(
        &self,
        held: &Held,
        mut book: Book,
        tags: Vec<u64>,
    ) -> Result<()> {
        book.version += 1;
        held.write(&self.book(), &book, book.version, tags).await
    }

    /// What the members of this process counted, for the next who asks.
    pub(crate) async fn keep_counts(&self, hubs: &[Arc<Hub>]) -> Result<()> {
        let durable = |hub: &&Arc<Hub>| {
            let desk = hub.desk.lock();
            !desk.spec.ephemeral && !desk.gone
        };
        let hubs: Vec<_> = hubs.iter().filter(durable).collect();
        if hubs.is_empty() || self.line.now().is_none() {
            return Ok(());
        }
        let held = self.lock.take(&self.line).await?;
        let keeping = async {
            let (mut book, tags): (Book, _) = held.read(&self.book()).await?;
            for hub in hubs {
                if let Some(stored) = book.subscriptions.get_mut(hub.name.as_str()) {
                    let desk = hub.desk.lock();
                    stored.acknowledged = desk.acknowledged;
                    stored.dropped = desk.dropped;
                }
            }
            self.write_book(&held, book, tags).await
        };
        let kept = keeping.await;
        held.release().await;
        kept
    }

    async fn put(&self, held: &Held, spec: &SubscriptionSpec) -> Result<Put> {
        let (mut book, mut tags): (Book, _) = held.read(&self.book()).await?;
        let name = spec.name.as_str();
        let there = book.subscriptions.get_mut(name);
        let put = if let Some(stored) = there.filter(|stored| stored.made) {
            let there = stored.spec(&spec.name)?;
            there.agrees_with(spec)?;
            let before = (there.lease, there.retry, there.dead_letter);
            if before == (spec.lease, spec.retry.clone(), spec.dead_letter) {
                held.put_back(tags).await?;
                return Ok(Put::Unchanged);
            }
            stored.change(spec);
            Put::Changed
        } else {
            self.check_order(spec)?;
            // Before its queues: whoever removes the stream finds their names nowhere else.
            let passes_on = self.passes_on(spec);
            let mut stored = Stored::new(spec, self.now());
            stored.passes_on = passes_on;
            book.subscriptions.insert(name.to_owned(), stored);
            self.write_book(held, book, tags).await?;
            self.create(held, spec, passes_on).await?;
            (book, tags) = held.read(&self.book()).await?;
            if let Some(stored) = book.subscriptions.get_mut(name) {
                stored.made = true;
            }
            Put::Created
        };
        let changed = book
            .subscriptions
            .get(name)
            .map(|stored| stored.spec(&spec.name));
        self.write_book(held, book, tags).await?;
        if let (Some(hub), Some(changed)) = (self.hub(&spec.name), changed) {
            hub.desk.lock().set_spec(changed?);
        }
        Ok(put)
    }

    async fn counts(&self, name: &SubscriptionName, stored: &Stored) -> Result<Counts> {
        let mut counts = Counts {
            acknowledged: stored.acknowledged,
            dropped: stored.dropped,
            ..Counts::default()
        };
        if let Some(hub) = self.hub(name) {
            self.count_with(&hub, stored, &mut counts).await?;
        } else {
            counts.dead = self.dead(name).await?;
            counts.waiting = self.depths(&self.queues_of(name, stored)).await?;
        }
        counts.published =
            counts.acknowledged + counts.dropped + counts.dead + counts.in_flight + counts.waiting;
        Ok(counts)
    }

    /// What is on its way from the queues to the desk is in neither: so both are read with an echo in
    /// between, and again where something came meanwhile.
    async fn count_with(&self, hub: &Hub, stored: &Stored, counts: &mut Counts) -> Result<()> {
        hub.catch_up().await?;
        for last in (0..READINGS).rev() {
            let before = hub.desk.lock().arrived;
            counts.dead = self.dead(&hub.name).await?;
            let ready = self.depths(&self.queues_of(&hub.name, stored)).await?;
            hub.catch_up().await?;
            let desk = hub.desk.lock();
            counts.acknowledged = desk.acknowledged;
            counts.dropped = desk.dropped;
            counts.in_flight = desk.in_flight();
            counts.waiting = ready + desk.waiting();
            if desk.arrived == before || last == 0 {
                break;
            }
        }
        Ok(())
    }

    pub(crate) async fn dead(&self, name: &SubscriptionName) -> Result<u64> {
        self.depths(&[self.dead_of(name)]).await
    }

    async fn info(&self, name: &SubscriptionName, stored: &Stored) -> Result<SubscriptionInfo> {
        Ok(SubscriptionInfo {
            spec: stored.spec(name)?,
            created: stored.created(),
            paused: stored.paused,
            counts: self.counts(name, stored).await?,
            frontier: Position::START,
            oldest_unsettled: None,
        })
    }

    async fn delete(&self, held: &Held, name: &SubscriptionName, force: bool) -> Result<()> {
        let (mut book, tags): (Book, _) = held.read(&self.book()).await?;
        let stored = book.subscriptions.get_mut(name.as_str());
        let stored = stored.ok_or_else(|| unknown(name))?;
        stored.made = false;
        let stored = stored.clone();
        if !force {
            let counts = self.counts(name, &stored).await?;
            if counts.unsettled() + counts.dead > 0 {
                held.put_back(tags).await?;
                return Err(counts.refuse_deletion(name));
            }
        }
        self.write_book(held, book, tags).await?;
        let hub = self.hubs.lock().remove(name);
        if let Some(hub) = hub {
            hub.desk.lock().gone = true;
            hub.stop().await;
        }
        self.delete_queues(held, name, &stored).await?;
        let (mut book, tags): (Book, _) = held.read(&self.book()).await?;
        book.subscriptions.remove(name.as_str());
        self.write_book(held, book, tags).await
    }

    async fn set_patterns(
        &self,
        held: &Held,
        name: &SubscriptionName,
        patterns: &PatternSet,
    ) -> Result<()> {
        let (mut book, tags): (Book, _) = held.read(&self.book()).await?;
        let stored = book.subscriptions.get_mut(name.as_str());
        let stored = stored.ok_or_else(|| unknown(name))?;
        let before = stored.spec(name)?.patterns;
        self.rebind(held, name, (&before, patterns)).await?;
        stored.set_patterns(patterns);
        let spec = stored.spec(name)?;
        self.write_book(held, book, tags).await?;
        if let Some(hub) = self.hub(name) {
            hub.desk.lock().set_spec(spec);
        }
        Ok(())
    }
}

fn not_offered<T>(what: &str) -> Result<T> {
    Err(Error::new(
        ErrorKind::Unsupported,
        format!("RabbitMQ keeps no log: {what} is not offered"),
    ))
}

#[async_trait]
impl Admin for AmqpBackend {
    async fn put(&self, spec: &SubscriptionSpec) -> Result<Put> {
        spec.check()?;
        self.stream.line.check_open()?;
        if spec.ephemeral {
            if let Some(hub) = self.stream.hub(&spec.name) {
                hub.desk.lock().spec.agrees_with(spec)?;
                return Ok(Put::Unchanged);
            }
            self.stream.start_ephemeral(spec).await?;
            return Ok(Put::Created);
        }
        locked!(self, |held| self.stream.put(&held, spec))
    }

    async fn set_patterns(&self, name: &SubscriptionName, patterns: PatternSet) -> Result<()> {
        locked!(self, |held| self
            .stream
            .set_patterns(&held, name, &patterns))
    }

    async fn delete(&self, name: &SubscriptionName, force: bool) -> Result<()> {
        locked!(self, |held| self.stream.delete(&held, name, force))
    }

    async fn get(&self, name: &SubscriptionName) -> Result<SubscriptionInfo> {
        let ephemeral = self
            .stream
            .hub(name)
            .filter(|hub| hub.desk.lock().spec.ephemeral);
        if let Some(hub) = ephemeral {
            return Ok(self.ephemeral(&hub));
        }
        locked!(self, |held| async {
            let book = self.stream.read_book(&held).await?;
            let stored = book
                .subscriptions
                .get(name.as_str())
                .ok_or_else(|| unknown(name))?;
            self.stream.info(name, stored).await
        })
    }

    /// Asked for each pull and settlement of others: who takes part here knows it without the lock.
    async fn spec(&self, name: &SubscriptionName) -> Result<SubscriptionSpec> {
        self.stream.line.check_open()?;
        let here = self.stream.hub(name).and_then(|hub| {
            let desk = hub.desk.lock();
            (!desk.gone).then(|| desk.spec.clone())
        });
        match here {
            Some(spec) => Ok(spec),
            None => self.stream.stored(name).await?.spec(name),
        }
    }

    async fn list(&self) -> Result<Vec<SubscriptionInfo>> {
        locked!(self, |held| async {
            let book = self.stream.read_book(&held).await?;
            let mut all = Vec::with_capacity(book.subscriptions.len());
            for (name, stored) in &book.subscriptions {
                let name = SubscriptionName::parse(name)?;
                all.push(self.stream.info(&name, stored).await?);
            }
            Ok(all)
        })
    }

    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()> {
        self.stream.line.check_open()?;
        let pause = |stored: &mut Stored| {
            stored.paused = paused;
            Ok(())
        };
        self.stream.note(name, pause).await?;
        if let Some(hub) = self.stream.hub(name) {
            hub.desk.lock().paused = paused;
            hub.wake.notify_waiters();
        }
        Ok(())
    }

    async fn seek(&self, _: &SubscriptionName, _: &SeekTo, _: bool) -> Result<Sought> {
        not_offered("moving a subscription")
    }

    async fn audit(&self, _: Option<&SubscriptionName>) -> Result<Vec<Audited>> {
        not_offered("proving conservation")
    }

    async fn stats(&self) -> Result<StreamStats> {
        let book = locked!(self, |held| self.stream.read_book(&held))?;
        Ok(StreamStats {
            losses: book.losses,
            ..StreamStats::default()
        })
    }

    async fn advice(&self) -> Result<Vec<Advice>> {
        self.stream.line.check_open()?;
        Ok(self.stream.out.advice().await)
    }

    async fn health(&self) -> Health {
        let (line, out) = (&self.stream.line, &self.stream.out);
        let (ok, detail) = if line.check_open().is_err() {
            (false, "closed".to_owned())
        } else if out.now().is_some_and(|live| live.blocked()) {
            (false, error::blocked(ErrorKind::Unavailable).to_string())
        } else if line.answers().await {
            (true, "connected".to_owned())
        } else {
            (false, "RabbitMQ does not answer".to_owned())
        };
        Health { ok, detail }
    }
}

impl AmqpBackend {
    fn ephemeral(&self, hub: &Hub) -> SubscriptionInfo {
        let desk = hub.desk.lock();
        let (in_flight, waiting) = (desk.in_flight(), desk.waiting());
        SubscriptionInfo {
            spec: desk.spec.clone(),
            created: self.stream.now(),
            paused: desk.paused,
            counts: Counts {
                published: desk.acknowledged + desk.dropped + in_flight + waiting,
                acknowledged: desk.acknowledged,
                dropped: desk.dropped,
                dead: 0,
                in_flight,
                waiting,
            },
            frontier: Position::START,
            oldest_unsettled: None,
        }
    }
}
