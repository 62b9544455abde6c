//! `emit`: run this process's handlers in the caller's task, then forward to publishers, and
//! answer how each fared. Nothing is stored; one failure stops nothing else.

use std::fmt::Debug;
use std::future::Future;

use async_trait::async_trait;
use fanfare_core::Result;
use fanfare_core::error::Error;
use fanfare_core::event::Event;
use fanfare_core::subscription::SubscriptionName;

use crate::bus::Bus;
use crate::event::IntoEvent;
use crate::handler::Outcome;

/// Another place to forward events to.
#[async_trait]
pub trait Publisher: Debug + Send + Sync + 'static {
    /// Named in answers and logs.
    fn name(&self) -> &str;

    /// Forwards an event.
    async fn publish(&self, event: &Event) -> Result<()>;

    /// Ends it. Calling it again is fine.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// How each handler and publisher fared.
#[derive(Debug)]
pub struct Emitted {
    /// The event as it was emitted.
    pub event: Event,
    /// Handlers in the order in which they were registered.
    pub handlers: Vec<(SubscriptionName, Outcome)>,
    /// Publishers in the order in which they were given; an error where one failed.
    pub publishers: Vec<(String, Option<Error>)>,
}

impl Emitted {
    /// Whether every handler and publisher did what it should.
    pub fn is_ok(&self) -> bool {
        self.handlers.iter().all(|(_, outcome)| outcome.is_ack())
            && self.publishers.iter().all(|(_, error)| error.is_none())
    }
}

impl Bus {
    /// Runs the handlers of this process whose subscription matches, one after the other in the
    /// order of their registration, then the publishers. The error is for an event that is itself
    /// invalid, or a closed bus; failures are in the answer.
    pub fn emit(&self, event: impl IntoEvent) -> impl Future<Output = Result<Emitted>> + Send + '_ {
        let event = self.prepare(event);
        async move {
            let event = event?;
            let mut handlers = Vec::new();
            for core in self.cores() {
                if core.receives(&event) {
                    let outcome = core.run_here(event.clone()).await;
                    handlers.push((core.name().clone(), outcome));
                }
            }
            let mut publishers = Vec::new();
            for publisher in &self.0.publishers {
                let error = publisher.publish(&event).await.err();
                publishers.push((publisher.name().to_owned(), error));
            }
            Ok(Emitted {
                event,
                handlers,
                publishers,
            })
        }
    }
}
