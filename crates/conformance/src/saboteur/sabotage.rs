//! Where a saboteur can put its hand in: one hook for each call, each of which passes the call on
//! unless a saboteur says otherwise.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_core::admin::SeekTo;
use fanfare_core::admin::{Audited, Health, Put, Sought, StreamStats, SubscriptionInfo};
use fanfare_core::backend::{Backend, Published};
use fanfare_core::capability::Capabilities;
use fanfare_core::consumer::{Consumer, Member};
use fanfare_core::data::Data;
use fanfare_core::dead_letter::{Acted, DeadLetter, DeadLetterPage, Selection};
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::error::Result;
use fanfare_core::event::Event;
use fanfare_core::history::{DeliveryInfo, EventPage, EventQuery, Recorded};
use fanfare_core::pattern::PatternSet;
use fanfare_core::position::Position;
use fanfare_core::state::Versioned;
use fanfare_core::subscription::{SubscriptionName, SubscriptionSpec};
use futures::future::BoxFuture;

/// A member that a saboteur stands between.
pub(crate) struct Tap {
    pub(crate) real: Arc<dyn Consumer>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) subscription: SubscriptionName,
}

/// One instance for each stream.
#[async_trait]
pub(crate) trait Sabotage: Debug + Send + Sync + 'static {
    async fn opened(&self, _real: &dyn Backend) -> Result<()> {
        Ok(())
    }

    /// Called when the suite closes a backend that is durable only in play.
    async fn closing(&self, _real: &dyn Backend) -> Result<()> {
        Ok(())
    }

    async fn close(&self, real: &dyn Backend) -> Result<()> {
        real.close().await
    }

    /// What it says of itself.
    fn capable(&self, _capabilities: &mut Capabilities) {}

    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        real.publish(events).await
    }

    /// A transaction of the caller's, in play.
    async fn transact(
        &self,
        real: &dyn Backend,
        events: &[Event],
        end: BoxFuture<'static, bool>,
    ) -> Result<()> {
        if end.await {
            super::outbox::publish(real, events).await?;
        }
        Ok(())
    }

    /// The member as the backend below sees it.
    fn member(&self, member: Member) -> Member {
        member
    }

    async fn receive(&self, tap: &Tap, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        tap.real.receive(max, wait).await
    }

    async fn settle(
        &self,
        tap: &Tap,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        tap.real.settle(settlements).await
    }

    async fn extend(
        &self,
        tap: &Tap,
        receipts: &[Receipt],
        lease: Duration,
    ) -> Result<Vec<Settled>> {
        tap.real.extend(receipts, lease).await
    }

    async fn leave(&self, tap: &Tap) -> Result<()> {
        tap.real.close().await
    }

    /// The member is dropped.
    fn dropped(&self, _tap: &Tap) {}

    async fn health(&self, real: &dyn Backend) -> Health {
        real.admin().health().await
    }

    async fn put(&self, real: &dyn Backend, spec: &SubscriptionSpec) -> Result<Put> {
        real.admin().put(spec).await
    }

    async fn set_patterns(
        &self,
        real: &dyn Backend,
        name: &SubscriptionName,
        patterns: PatternSet,
    ) -> Result<()> {
        real.admin().set_patterns(name, patterns).await
    }

    async fn delete(&self, real: &dyn Backend, name: &SubscriptionName, force: bool) -> Result<()> {
        real.admin().delete(name, force).await
    }

    /// What is shown of a subscription.
    fn show(&self, _info: &mut SubscriptionInfo) {}

    async fn set_paused(
        &self,
        real: &dyn Backend,
        name: &SubscriptionName,
        paused: bool,
    ) -> Result<()> {
        real.admin().set_paused(name, paused).await
    }

    async fn seek(
        &self,
        real: &dyn Backend,
        name: &SubscriptionName,
        to: &SeekTo,
        dry_run: bool,
    ) -> Result<Sought> {
        real.admin().seek(name, to, dry_run).await
    }

    /// What is shown of an audit.
    fn account(&self, _audited: &mut Audited) {}

    /// What is shown of a dead letter.
    fn letter(&self, _letter: &mut DeadLetter) {}

    /// What is shown of a page of dead letters.
    fn letters(&self, _page: &mut DeadLetterPage) {}

    async fn count(&self, real: &dyn Backend, selection: &Selection) -> Result<u64> {
        real.dead_letters().count(selection).await
    }

    async fn redrive(
        &self,
        real: &dyn Backend,
        selection: &Selection,
        limit: usize,
    ) -> Result<Acted> {
        real.dead_letters().redrive(selection, limit).await
    }

    async fn discard(&self, real: &dyn Backend, selection: &Selection) -> Result<Acted> {
        real.dead_letters().discard(selection).await
    }

    async fn replace(&self, real: &dyn Backend, id: &str, data: Data) -> Result<DeadLetter> {
        real.dead_letters().replace(id, data).await
    }

    async fn events(&self, real: &dyn Backend, query: &EventQuery) -> Result<EventPage> {
        real.history()?.events(query).await
    }

    /// What is shown of the events with an id.
    fn found(&self, _found: &mut Vec<Recorded>) {}

    /// What is shown of an event's deliveries.
    fn deliveries(&self, _deliveries: &mut Vec<DeliveryInfo>) {}

    /// What a wait for a position beyond `after` answers.
    fn woken(&self, _after: Position, head: Position) -> Position {
        head
    }

    /// What is shown of the stream.
    fn stats(&self, _stats: &mut StreamStats) {}

    /// What is shown of a shared value.
    fn value(&self, _value: &mut Versioned) {}

    async fn put_if_absent(&self, real: &dyn Backend, key: &str, value: Bytes) -> Result<bool> {
        real.state().put_if_absent(key, value).await
    }

    async fn compare_and_set(
        &self,
        real: &dyn Backend,
        key: &str,
        expected: Option<u64>,
        value: Bytes,
    ) -> Result<Option<u64>> {
        real.state().compare_and_set(key, expected, value).await
    }

    async fn increment(&self, real: &dyn Backend, key: &str, by: i64) -> Result<i64> {
        real.state().increment(key, by).await
    }
}

/// Sabotages nothing.
#[derive(Debug)]
pub(crate) struct Nobody;

impl Sabotage for Nobody {}
