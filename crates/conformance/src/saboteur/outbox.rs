//! Saboteurs of publishing within the caller's transaction. A backend that has none plays it:
//! nothing is published before the commit.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use fanfare_core::backend::{Backend, Published};
use fanfare_core::error::Result;
use fanfare_core::event::Event;
use futures::future::BoxFuture;

use super::sabotage::Sabotage;
use super::saboteurs;

saboteurs! {
    PublishesWhatIsRolledBack: 17, "publishes the events of a transaction that is rolled back" => [
        "outbox::what_is_committed_is_published_and_nothing_else",
        "outbox::what_commits_late_is_not_skipped",
        "outbox::the_order_of_a_key_is_that_of_its_commits",
        "outbox::a_forwarding_carries_what_was_committed",
    ];
    SkipsLateCommits: 17, "skips what commits behind a later event" => [
        "outbox::what_commits_late_is_not_skipped",
    ];
    ReversesTransactions: 17, "publishes the events of a transaction backwards" => [
        "outbox::the_order_of_a_key_is_that_of_its_commits",
        "outbox::a_forwarding_carries_what_was_committed",
    ];
}

/// Publishes the events of a transaction that committed.
pub(super) async fn publish(real: &dyn Backend, events: &[Event]) -> Result<()> {
    for answer in real.publish(events).await? {
        answer?;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct PublishesWhatIsRolledBack;

#[async_trait]
impl Sabotage for PublishesWhatIsRolledBack {
    async fn transact(
        &self,
        real: &dyn Backend,
        events: &[Event],
        end: BoxFuture<'static, bool>,
    ) -> Result<()> {
        publish(real, events).await?;
        end.await;
        Ok(())
    }
}

/// Counts the calls that publish.
#[derive(Debug, Default)]
struct SkipsLateCommits(AtomicU64);

#[async_trait]
impl Sabotage for SkipsLateCommits {
    async fn publish(
        &self,
        real: &dyn Backend,
        events: &[Event],
    ) -> Result<Vec<Result<Published>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        real.publish(events).await
    }

    async fn transact(
        &self,
        real: &dyn Backend,
        events: &[Event],
        end: BoxFuture<'static, bool>,
    ) -> Result<()> {
        let before = self.0.load(Ordering::SeqCst);
        if end.await && self.0.load(Ordering::SeqCst) == before {
            publish(real, events).await?;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct ReversesTransactions;

#[async_trait]
impl Sabotage for ReversesTransactions {
    async fn transact(
        &self,
        real: &dyn Backend,
        events: &[Event],
        end: BoxFuture<'static, bool>,
    ) -> Result<()> {
        let backwards: Vec<Event> = events.iter().rev().cloned().collect();
        if end.await {
            publish(real, &backwards).await?;
        }
        Ok(())
    }
}
