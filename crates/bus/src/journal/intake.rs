//! The log as the forwarding writes to it. An event that is published here arrives twice: from its
//! publisher, and from the broker. The forwarding lets the publisher go first, so that only an event
//! which was there before is ever answered as a duplicate.

use std::sync::Arc;

use async_trait::async_trait;
use fanfare_core::Result;
use fanfare_core::admin::Admin;
use fanfare_core::backend::{Backend, Published};
use fanfare_core::capability::Capabilities;
use fanfare_core::consumer::{Consumer, Member};
use fanfare_core::dead_letter::DeadLetters;
use fanfare_core::event::Event;
use fanfare_core::history::History;
use fanfare_core::id::EventId;
use fanfare_core::state::State;
use fanfare_core::subscription::SubscriptionName;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::watch;

type Identity = (EventId, Arc<str>);
/// As many entries as events are being published here.
type Publishing = Arc<Mutex<HashMap<Identity, Publishers>>>;

/// The callers that publish one event now.
#[derive(Debug)]
struct Publishers {
    count: usize,
    /// Dropped by the last one.
    done: watch::Sender<()>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Intake {
    log: Arc<dyn Backend>,
    publishing: Publishing,
}

impl Intake {
    pub(super) fn new(log: Arc<dyn Backend>) -> Self {
        Self {
            log,
            publishing: Arc::default(),
        }
    }

    /// Holds the forwarding of these events up until the answer is dropped.
    pub(super) fn expect(&self, events: &[Event]) -> Expected {
        let identities: Vec<_> = events.iter().map(identity).collect();
        let mut publishing = self.publishing.lock();
        for identity in &identities {
            let new = || Publishers {
                count: 0,
                done: watch::Sender::new(()),
            };
            let publishers = publishing.entry(identity.clone()).or_insert_with(new);
            publishers.count += 1;
        }
        drop(publishing);
        Expected {
            publishing: Arc::clone(&self.publishing),
            identities,
        }
    }

    async fn after_publishers(&self, event: &Event) {
        let identity = identity(event);
        loop {
            let done = {
                let publishing = self.publishing.lock();
                publishing.get(&identity).map(|p| p.done.subscribe())
            };
            match done {
                // Nobody ever writes to it: it fails when the last publisher is done.
                Some(mut done) => while done.changed().await.is_ok() {},
                None => return,
            }
        }
    }
}

fn identity(event: &Event) -> Identity {
    (event.id().clone(), Arc::clone(event.source()))
}

/// Events that are being published.
#[derive(Debug)]
pub(super) struct Expected {
    publishing: Publishing,
    identities: Vec<Identity>,
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut publishing = self.publishing.lock();
        for identity in &self.identities {
            if let Some(publishers) = publishing.get_mut(identity) {
                publishers.count -= 1;
                if publishers.count == 0 {
                    publishing.remove(identity);
                }
            }
        }
    }
}

#[async_trait]
impl Backend for Intake {
    fn capabilities(&self) -> Capabilities {
        self.log.capabilities()
    }

    async fn publish(&self, events: &[Event]) -> Result<Vec<Result<Published>>> {
        for event in events {
            self.after_publishers(event).await;
        }
        self.log.publish(events).await
    }

    async fn consume(&self, name: &SubscriptionName, member: Member) -> Result<Arc<dyn Consumer>> {
        self.log.consume(name, member).await
    }

    fn admin(&self) -> &dyn Admin {
        self.log.admin()
    }

    fn dead_letters(&self) -> &dyn DeadLetters {
        self.log.dead_letters()
    }

    fn history(&self) -> Result<&dyn History> {
        self.log.history()
    }

    fn state(&self) -> &dyn State {
        self.log.state()
    }

    async fn close(&self) -> Result<()> {
        self.log.close().await
    }
}
