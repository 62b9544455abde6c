//! A backend that misbehaves on demand, around the in-memory one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_core::admin::Admin;
use fanfare_core::backend::{Backend, Published};
use fanfare_core::capability::Capabilities;
use fanfare_core::clock::Clock;
use fanfare_core::consumer::{Consumer, Member};
use fanfare_core::dead_letter::DeadLetters;
use fanfare_core::delivery::{Delivery, Receipt, Settled, Settlement};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::event::Event;
use fanfare_core::history::History;
use fanfare_core::state::State;
use fanfare_core::subscription::SubscriptionName;
use parking_lot::Mutex;

use crate::harness::backend;

/// What the next calls do instead of what they should.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// Fails with this kind; nothing happened.
    Fails(ErrorKind),
    /// Does what it should, then fails as if the answer was lost.
    LosesAnswer,
    /// Never answers.
    Hangs,
}

#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) publish: Mutex<VecDeque<Fault>>,
    pub(crate) receive: Mutex<VecDeque<Fault>>,
    pub(crate) settle: Mutex<VecDeque<Fault>>,
    /// How many settlements each call of the backend carried.
    pub(crate) settled: Mutex<Vec<usize>>,
}

#[derive(Debug)]
pub(crate) struct Faulty {
    inner: Arc<dyn Backend>,
    pub(crate) faults: Arc<Faults>,
}

impl Faulty {
    pub(crate) fn new(clock: &Clock) -> Arc<Self> {
        Arc::new(Self {
            inner: backend(clock),
            faults: Arc::default(),
        })
    }
}

/// Runs `call` as the next fault of `faults` says.
async fn with<T>(
    faults: &Mutex<VecDeque<Fault>>,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    let fault = faults.lock().pop_front();
    match fault {
        None => call.await,
        Some(Fault::Fails(kind)) => Err(Error::new(kind, "made to fail")),
        Some(Fault::Hangs) => std::future::pending().await,
        Some(Fault::LosesAnswer) => {
            call.await?;
            Err(Error::new(ErrorKind::Unknown, "answer lost"))
        }
    }
}

#[async_trait]
impl Backend for Faulty {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        with(&self.faults.publish, self.inner.publish(events)).await
    }

    async fn consume(&self, name: &SubscriptionName, member: Member) -> Result<Arc<dyn Consumer>> {
        Ok(Arc::new(FaultyConsumer {
            inner: self.inner.consume(name, member).await?,
            faults: Arc::clone(&self.faults),
        }))
    }

    fn admin(&self) -> &dyn Admin {
        self.inner.admin()
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        self.inner.dead_letters()
    }

    fn history(&self) -> Result<&dyn History> {
        self.inner.history()
    }

    fn state(&self) -> &dyn State {
        self.inner.state()
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

struct FaultyConsumer {
    inner: Arc<dyn Consumer>,
    faults: Arc<Faults>,
}

#[async_trait]
impl Consumer for FaultyConsumer {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>> {
        with(&self.faults.receive, self.inner.receive(max, wait)).await
    }

    async fn settle(&self, settlements: Vec<(Receipt, Settlement)>) -> Result<Vec<Settled>> {
        self.faults.settled.lock().push(settlements.len());
        with(&self.faults.settle, self.inner.settle(settlements)).await
    }

    async fn extend(&self, receipts: &[Receipt], lease: Duration) -> Result<Vec<Settled>> {
        self.inner.extend(receipts, lease).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
