//! From running through draining to closed. Shutting down is fine at any moment and more than
//! once; nothing outlives it.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use fanfare_core::Result;
use fanfare_core::error::{Error, ErrorKind};
use fanfare_core::timestamp::Timestamp;
use futures::future::join_all;
use serde::Serialize;
use tokio::sync::watch;

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

#[derive(Debug)]
pub(crate) struct Lifecycle {
    phase: AtomicU8,
    begun: AtomicBool,
    /// Set at the end.
    report: watch::Sender<Option<Result<ShutdownReport>>>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            phase: AtomicU8::new(Phase::Running as u8),
            begun: AtomicBool::new(false),
            report: watch::Sender::new(None),
        }
    }
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

    /// The first call begins; every call waits for the end. The work is done in a task of its
    /// own, so that it goes on when a caller stops waiting, or is itself a handler to be ended.
    pub(crate) async fn shutdown(&self, bus: &Bus, grace: Duration) -> Result<ShutdownReport> {
        self.enter(Phase::Draining);
        if !self.begun.swap(true, Ordering::AcqRel) {
            let deadline = bus.clock().now() + grace;
            bus.0.runtime.spawn(close(bus.clone(), deadline));
        }
        let mut report = self.report.subscribe();
        let report = report.wait_for(Option::is_some).await;
        match report.as_deref() {
            Ok(Some(Ok(report))) => Ok(report.clone()),
            Ok(Some(Err(error))) => Err(error.duplicate()),
            Ok(None) | Err(_) => Err(Error::new(ErrorKind::Closed, "the bus is gone")),
        }
    }
}

async fn close(bus: Bus, deadline: Timestamp) {
    let report = drain(&bus, deadline).await;
    let lifecycle = &bus.0.lifecycle;
    lifecycle.enter(Phase::Closed);
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
    lifecycle.report.send_replace(Some(closed.map(|()| report)));
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
