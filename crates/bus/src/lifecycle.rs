//! From running through draining to closed. Shutting down is fine at any moment and more than
//! once; nothing outlives it.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use fanfare_core::Result;
use fanfare_core::error::{Error, ErrorKind};
use fanfare_core::timestamp::Timestamp;
use futures::future::join_all;
use serde::Serialize;
use tokio::sync::Mutex;

use crate::bus::Bus;
use crate::context::Context;

/// Where a bus is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Everything is allowed.
    Running = 0,
    /// Only handlers that still run may publish.
    Draining = 1,
    /// Nothing is allowed.
    Closed = 2,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Closed => "closed",
        }
    }
}

/// What a shutdown did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ShutdownReport {
    /// Deliveries given back because they had not started.
    pub released: u64,
    /// Handlers cut off at the end of the grace period; their deliveries were given back.
    pub cut_off: u64,
    /// Settlements that could not be written; their deliveries come back.
    pub unsettled: u64,
    /// Events of the queue that could not be published, over the life of the bus.
    pub queue_failures: u64,
    /// The first of those: id and error.
    pub failed: Vec<(String, String)>,
}

#[derive(Debug, Default)]
pub(crate) struct Lifecycle {
    phase: AtomicU8,
    report: Mutex<Option<ShutdownReport>>,
}

impl Lifecycle {
    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Draining,
            _ => Phase::Closed,
        }
    }

    /// Whether publishing is allowed now, to this task.
    pub(crate) fn admit(&self) -> Result<()> {
        match self.phase() {
            Phase::Running => Ok(()),
            Phase::Draining if Context::inside_a_handler() => Ok(()),
            phase => Err(Error::new(
                ErrorKind::Closed,
                format!("the bus is {}", phase.name()),
            )),
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    pub(crate) async fn shutdown(&self, bus: &Bus, grace: Duration) -> Result<ShutdownReport> {
        self.enter(Phase::Draining);
        // Held to the end: a second caller waits for the first and gets its report.
        let mut report = self.report.lock().await;
        if let Some(report) = &*report {
            return Ok(report.clone());
        }
        let deadline = bus.clock().now() + grace;
        let made = drain(bus, deadline).await;
        self.enter(Phase::Closed);
        for publisher in &bus.0.publishers {
            if let Err(error) = publisher.close().await {
                tracing::warn!(publisher = publisher.name(), %error, "publisher did not close");
            }
        }
        let closed = if bus.0.closes_backend {
            bus.backend().close().await
        } else {
            Ok(())
        };
        *report = Some(made.clone());
        closed.map(|()| made)
    }
}

/// Subscriptions first, because their handlers may still publish; then the queue.
async fn drain(bus: &Bus, deadline: Timestamp) -> ShutdownReport {
    // Subscriptions that start meanwhile see the phase and stop themselves.
    let cores = std::mem::take(&mut *bus.0.subscriptions.lock());
    let drained = join_all(cores.iter().map(|core| core.stop(deadline))).await;
    let failures = bus.0.queue.drain(deadline).await;
    let mut report = ShutdownReport {
        queue_failures: failures.count,
        failed: failures.first,
        ..ShutdownReport::default()
    };
    for subscription in drained {
        report.released += subscription.released;
        report.cut_off += subscription.cut_off;
        report.unsettled += subscription.unsettled;
    }
    report
}
