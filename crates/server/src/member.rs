//! The member through which clients elsewhere consume a subscription: the backend's consumer, and the
//! same counters that the bus keeps for handlers in this process. Its leases belong to the clients
//! and outlive the server, so it is never closed.

use std::sync::Arc;
use std::time::Duration;

use fanfare::bus::Bus;
use fanfare::bus::telemetry::Consuming;
use fanfare::core::consumer::{self, Consumer, MemberKind};
use fanfare::core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare::core::error::Result;
use fanfare::core::subscription::SubscriptionName;

/// One per subscription that anybody pulls from.
pub(crate) struct Member {
    consumer: Arc<dyn Consumer>,
    counts: Arc<Consuming>,
}

impl Member {
    /// Joins a subscription, which exists.
    pub(crate) async fn join(bus: &Bus, name: &SubscriptionName) -> Result<Self> {
        let member = consumer::Member {
            name: "http".into(),
            kind: MemberKind::External,
        };
        Ok(Self {
            consumer: bus.backend().consume(name, member).await?,
            counts: bus.telemetry().consuming(name),
        })
    }

    /// Takes at most `max` deliveries, waiting for the first.
    pub(crate) async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        let received = self.consumer.receive(max, wait).await;
        match &received {
            Ok(deliveries) => self.counts.received.add(deliveries.len() as u64),
            Err(_) => self.counts.errors.add(1),
        }
        received
    }

    /// Settles deliveries; answers in order.
    pub(crate) async fn settle(
        &self,
        settlements: Vec<(Receipt, Settlement)>,
    ) -> Result<Vec<Settled>> {
        let counts = &self.counts;
        let counters: Vec<_> = settlements
            .iter()
            .map(|(_, settlement)| match settlement {
                Settlement::Ack => &counts.acknowledged,
                Settlement::Retry { .. } => &counts.retried,
                Settlement::DeadLetter { .. } => &counts.dead,
                Settlement::Drop => &counts.dropped,
                Settlement::Release => &counts.released,
            })
            .collect();
        let settled = self.consumer.settle(settlements).await?;
        for (counter, outcome) in counters.into_iter().zip(&settled) {
            match outcome {
                Settled::Done => counter.add(1),
                Settled::Late | Settled::Already | Settled::Unknown => counts.refused.add(1),
            }
        }
        Ok(settled)
    }

    /// Holds deliveries for `lease` from now; answers in order.
    pub(crate) async fn extend(
        &self,
        receipts: &[Receipt],
        lease: Duration,
    ) -> Result<Vec<Settled>> {
        let extended = self.consumer.extend(receipts, lease).await?;
        let done = extended.iter().filter(|s| **s == Settled::Done).count();
        self.counts.extended.add(done as u64);
        self.counts.leases_lost.add((extended.len() - done) as u64);
        Ok(extended)
    }
}
