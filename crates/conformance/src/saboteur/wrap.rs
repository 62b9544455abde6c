//! The wrapper: a backend that passes every call through its saboteur. It adds one thing of its
//! own: where the backend below is not durable, closing and opening again is played.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_core::admin::{
    Admin, Audited, Health, Put, SeekTo, Sought, StreamStats, SubscriptionInfo,
};
use fanfare_core::backend::{Backend, Published};
use fanfare_core::capability::{Capabilities, SettleFrom};
use fanfare_core::consumer::{Consumer, Member, MemberKind};
use fanfare_core::data::Data;
use fanfare_core::dead_letter::{
    Acted, DeadLetter, DeadLetterFilter, DeadLetterPage, DeadLetters, Selection,
};
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::error::Result;
use fanfare_core::event::Event;
use fanfare_core::history::{DeliveryInfo, EventPage, EventQuery, History, Recorded};
use fanfare_core::pattern::PatternSet;
use fanfare_core::position::Position;
use fanfare_core::state::{State, Versioned};
use fanfare_core::subscription::{SubscriptionName, SubscriptionSpec};
use parking_lot::Mutex;

use super::sabotage::{Sabotage, Tap};

/// A backend in a saboteur's hands.
#[derive(Debug)]
pub(crate) struct Wrapped {
    real: Arc<dyn Backend>,
    sabotage: Arc<dyn Sabotage>,
    plays: bool,
    closed: AtomicBool,
    taps: Mutex<Vec<Weak<Tapped>>>,
}

impl Wrapped {
    pub(crate) fn around(
        real: Arc<dyn Backend>,
        sabotage: Arc<dyn Sabotage>,
        plays: bool,
    ) -> Arc<dyn Backend> {
        Arc::new(Self {
            real,
            sabotage,
            plays,
            closed: AtomicBool::new(false),
            taps: Mutex::default(),
        })
    }

    async fn play_close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let taps: Vec<_> = self.taps.lock().iter().filter_map(Weak::upgrade).collect();
        for tapped in taps
            .iter()
            .filter(|tapped| tapped.kind == MemberKind::Embedded)
        {
            tapped.tap.real.close().await?;
        }
        self.sabotage.closing(&*self.real).await
    }
}

#[async_trait]
impl Backend for Wrapped {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.real.capabilities();
        capabilities.durable |= self.plays;
        capabilities.shared |= self.plays;
        if self.plays {
            capabilities.settle_from = SettleFrom::Any;
        }
        self.sabotage.capable(&mut capabilities);
        capabilities
    }

    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        self.sabotage.publish(&*self.real, events).await
    }

    async fn consume(
        &self,
        subscription: &SubscriptionName,
        member: Member,
    ) -> Result<Arc<dyn Consumer>> {
        let member = self.sabotage.member(member);
        let kind = member.kind;
        let tap = Tap {
            real: self.real.consume(subscription, member).await?,
            backend: self.real.clone(),
            subscription: subscription.clone(),
        };
        let tapped = Arc::new(Tapped {
            tap,
            kind,
            sabotage: self.sabotage.clone(),
        });
        self.taps.lock().push(Arc::downgrade(&tapped));
        Ok(tapped)
    }

    fn admin(&self) -> &dyn Admin {
        self
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        self
    }

    fn history(&self) -> Result<&dyn History> {
        self.real.history()?;
        Ok(self)
    }

    fn state(&self) -> &dyn State {
        self
    }

    async fn close(&self) -> Result<()> {
        if self.plays {
            self.play_close().await
        } else {
            self.sabotage.close(&*self.real).await
        }
    }
}

struct Tapped {
    tap: Tap,
    kind: MemberKind,
    sabotage: Arc<dyn Sabotage>,
}

#[async_trait]
impl Consumer for Tapped {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        self.sabotage.receive(&self.tap, max, wait).await
    }

    async fn settle(&self, settlements: Vec<(Receipt, Settlement)>) -> Result<Vec<Settled>> {
        self.sabotage.settle(&self.tap, settlements).await
    }

    async fn extend(&self, receipts: &[Receipt], lease: Duration) -> Result<Vec<Settled>> {
        self.sabotage.extend(&self.tap, receipts, lease).await
    }

    async fn close(&self) -> Result<()> {
        self.sabotage.leave(&self.tap).await
    }
}

impl Drop for Tapped {
    fn drop(&mut self) {
        self.sabotage.dropped(&self.tap);
    }
}

#[async_trait]
impl Admin for Wrapped {
    async fn put(&self, spec: &SubscriptionSpec) -> Result<Put> {
        self.sabotage.put(&*self.real, spec).await
    }

    async fn set_patterns(&self, name: &SubscriptionName, patterns: PatternSet) -> Result<()> {
        self.sabotage
            .set_patterns(&*self.real, name, patterns)
            .await
    }

    async fn delete(&self, name: &SubscriptionName, force: bool) -> Result<()> {
        self.sabotage.delete(&*self.real, name, force).await
    }

    async fn get(&self, name: &SubscriptionName) -> Result<SubscriptionInfo> {
        let mut info = self.real.admin().get(name).await?;
        self.sabotage.show(&mut info);
        Ok(info)
    }

    async fn spec(&self, name: &SubscriptionName) -> Result<SubscriptionSpec> {
        Ok(Admin::get(self, name).await?.spec)
    }

    async fn list(&self) -> Result<Vec<SubscriptionInfo>> {
        let mut listed = self.real.admin().list().await?;
        for info in &mut listed {
            self.sabotage.show(info);
        }
        Ok(listed)
    }

    async fn set_paused(&self, name: &SubscriptionName, paused: bool) -> Result<()> {
        self.sabotage.set_paused(&*self.real, name, paused).await
    }

    async fn seek(&self, name: &SubscriptionName, to: &SeekTo, dry_run: bool) -> Result<Sought> {
        self.sabotage.seek(&*self.real, name, to, dry_run).await
    }

    async fn audit(&self, name: Option<&SubscriptionName>) -> Result<Vec<Audited>> {
        let mut audited = self.real.admin().audit(name).await?;
        for one in &mut audited {
            self.sabotage.account(one);
        }
        Ok(audited)
    }

    async fn stats(&self) -> Result<StreamStats> {
        let mut stats = self.real.admin().stats().await?;
        self.sabotage.stats(&mut stats);
        Ok(stats)
    }

    async fn health(&self) -> Health {
        self.sabotage.health(&*self.real).await
    }
}

#[async_trait]
impl DeadLetters for Wrapped {
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<DeadLetterPage> {
        let mut page = self.real.dead_letters().list(filter, after, limit).await?;
        for letter in &mut page.items {
            self.sabotage.letter(letter);
        }
        self.sabotage.letters(&mut page);
        Ok(page)
    }

    async fn get(&self, id: &str) -> Result<DeadLetter> {
        let mut letter = self.real.dead_letters().get(id).await?;
        self.sabotage.letter(&mut letter);
        Ok(letter)
    }

    async fn count(&self, selection: &Selection) -> Result<u64> {
        self.sabotage.count(&*self.real, selection).await
    }

    async fn redrive(&self, selection: &Selection, limit: usize) -> Result<Acted> {
        self.sabotage.redrive(&*self.real, selection, limit).await
    }

    async fn discard(&self, selection: &Selection) -> Result<Acted> {
        self.sabotage.discard(&*self.real, selection).await
    }

    async fn replace(&self, id: &str, data: Data) -> Result<DeadLetter> {
        let mut letter = self.sabotage.replace(&*self.real, id, data).await?;
        self.sabotage.letter(&mut letter);
        Ok(letter)
    }
}

#[async_trait]
impl History for Wrapped {
    async fn events(&self, query: &EventQuery) -> Result<EventPage> {
        self.sabotage.events(&*self.real, query).await
    }

    async fn event(&self, id: &str, source: Option<&str>) -> Result<Vec<Recorded>> {
        let mut found = self.real.history()?.event(id, source).await?;
        self.sabotage.found(&mut found);
        Ok(found)
    }

    async fn deliveries(&self, position: Position) -> Result<Vec<DeliveryInfo>> {
        let mut deliveries = self.real.history()?.deliveries(position).await?;
        self.sabotage.deliveries(&mut deliveries);
        Ok(deliveries)
    }

    async fn head(&self) -> Result<Position> {
        self.real.history()?.head().await
    }

    async fn wait_beyond(&self, position: Position, wait: Duration) -> Result<Position> {
        let head = self.real.history()?.wait_beyond(position, wait).await?;
        Ok(self.sabotage.woken(position, head))
    }
}

#[async_trait]
impl State for Wrapped {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        let mut value = self.real.state().get(key).await?;
        if let Some(value) = &mut value {
            self.sabotage.value(value);
        }
        Ok(value)
    }

    async fn put_if_absent(&self, key: &str, value: Bytes) -> Result<bool> {
        self.sabotage.put_if_absent(&*self.real, key, value).await
    }

    async fn compare_and_set(
        &self,
        key: &str,
        expected: Option<u64>,
        value: Bytes,
    ) -> Result<Option<u64>> {
        let real = &*self.real;
        self.sabotage
            .compare_and_set(real, key, expected, value)
            .await
    }

    async fn increment(&self, key: &str, by: i64) -> Result<i64> {
        self.sabotage.increment(&*self.real, key, by).await
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        self.real.state().delete(key).await
    }
}
