//! Calls on their way: what was in flight at the moment of a fault, and how long calls take. Every call
//! has a bound; one that takes longer is a breach, whatever its answer.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::CLIENTS;
use crate::chaos::chance;

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cargo {
    Publish,
    Settlement,
    Pull,
}

impl Cargo {
    /// The longest that a call may take while brokers fail and servers do not: a publish has a deadline
    /// of 10 s, everything else may have to connect (5 s) and then wait for an answer (10 s). The rest
    /// is for a busy machine.
    pub(super) fn bound(self) -> Duration {
        match self {
            Self::Publish => Duration::from_secs(12),
            Self::Settlement | Self::Pull => Duration::from_secs(20),
        }
    }

    fn place(self) -> usize {
        match self {
            Self::Publish => 0,
            Self::Settlement => 1,
            Self::Pull => 2,
        }
    }
}

/// Requests that left before a moment and were not answered by then.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct InFlight {
    pub(crate) publishes: usize,
    pub(crate) settlements: usize,
}

/// What every client does now, and what broke off.
#[derive(Debug, Default)]
pub(super) struct Flights {
    inner: Mutex<Inner>,
    began: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    now: [Option<(Cargo, u64)>; CLIENTS],
    broken_off: Vec<(Cargo, u64)>,
    longest: [u64; 3],
}

impl Flights {
    /// A client begins a call.
    pub(super) fn begin(&self, client: usize, cargo: Cargo) {
        if let Some(now) = self.inner().now.get_mut(client) {
            *now = Some((cargo, chance::now()));
        }
        self.began.notify_all();
    }

    /// Waits until a publish and a settlement are on their way at once, or `patience` is over.
    pub(super) fn busy(&self, patience: Duration) {
        let idle = |inner: &mut Inner| {
            let flies = |cargo| inner.now.iter().flatten().any(|(kind, _)| *kind == cargo);
            !(flies(Cargo::Publish) && flies(Cargo::Settlement))
        };
        let waited = self.began.wait_timeout_while(self.inner(), patience, idle);
        drop(waited);
    }

    /// It is over; answers how long it took where that is longer than it may.
    pub(super) fn end(&self, client: usize) -> Option<(Cargo, Duration)> {
        let mut inner = self.inner();
        let (cargo, began) = inner.now.get_mut(client)?.take()?;
        let took = chance::now().saturating_sub(began);
        if let Some(longest) = inner.longest.get_mut(cargo.place()) {
            *longest = took.max(*longest);
        }
        let took = Duration::from_micros(took);
        (took > cargo.bound()).then_some((cargo, took))
    }

    /// A request that left at `sent` will never be answered.
    pub(super) fn broke_off(&self, cargo: Cargo, sent: u64) {
        self.inner().broken_off.push((cargo, sent));
    }

    /// What had left before `moment` and broke off since the last time, or is still on its way.
    pub(super) fn at(&self, moment: u64) -> InFlight {
        let mut inner = self.inner();
        let broken_off = std::mem::take(&mut inner.broken_off);
        let flying = inner.now.iter().flatten().chain(&broken_off);
        let count = |cargo| {
            let before = |(kind, sent): &&(Cargo, u64)| *kind == cargo && *sent < moment;
            flying.clone().filter(before).count()
        };
        InFlight {
            publishes: count(Cargo::Publish),
            settlements: count(Cargo::Settlement),
        }
    }

    /// The longest publish, settlement and pull so far, in microseconds.
    pub(super) fn longest(&self) -> [u64; 3] {
        self.inner().longest
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
