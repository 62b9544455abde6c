//! When work goes on again after a fault: the first acknowledgement of each publisher and the first
//! delivery on each subscription whose call began since a moment. What was asked before may have been
//! answered on the way through the fault.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{PUBLISHERS, SUBSCRIPTIONS};

/// Firsts since a moment, in microseconds since 1970.
#[derive(Debug, Default)]
struct Firsts {
    since: u64,
    published: [Option<u64>; PUBLISHERS.len()],
    delivered: [Option<u64>; SUBSCRIPTIONS.len()],
}

/// Told by the clients, asked by the checker.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    firsts: Mutex<Firsts>,
    changed: Condvar,
}

impl Pulse {
    /// Forgets what was; `moment` is when the fault ended.
    pub(super) fn since(&self, moment: u64) {
        *self.firsts() = Firsts {
            since: moment,
            ..Firsts::default()
        };
    }

    /// A publisher asked at `asked` and was acknowledged at `at`.
    pub(super) fn published(&self, publisher: usize, asked: u64, at: u64) {
        let mut firsts = self.firsts();
        if asked >= firsts.since {
            note(firsts.published.get_mut(publisher), at);
        }
        self.changed.notify_all();
    }

    /// A subscription was asked at `asked` and had a delivery at `at`.
    pub(super) fn delivered(&self, sub: &str, asked: u64, at: u64) {
        let mut firsts = self.firsts();
        let place = SUBSCRIPTIONS.iter().position(|known| *known == sub);
        if asked >= firsts.since {
            note(place.and_then(|place| firsts.delivered.get_mut(place)), at);
        }
        self.changed.notify_all();
    }

    /// How long after the moment the last publisher was acknowledged, in microseconds; none if that
    /// takes longer than `patience`.
    pub(super) fn publishing(&self, patience: Duration) -> Option<u64> {
        self.last(patience, |firsts| &firsts.published)
    }

    /// How long after the moment the last subscription had a delivery.
    pub(super) fn delivering(&self, patience: Duration) -> Option<u64> {
        self.last(patience, |firsts| &firsts.delivered)
    }

    fn last(&self, patience: Duration, of: impl Fn(&Firsts) -> &[Option<u64>]) -> Option<u64> {
        let waiting = |firsts: &mut Firsts| of(firsts).contains(&None);
        let (firsts, _) = self
            .changed
            .wait_timeout_while(self.firsts(), patience, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        let ats: Option<Vec<u64>> = of(&firsts).iter().copied().collect();
        let last = ats?.into_iter().max()?;
        Some(last.saturating_sub(firsts.since))
    }

    fn firsts(&self) -> MutexGuard<'_, Firsts> {
        self.firsts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note(first: Option<&mut Option<u64>>, at: u64) {
    if let Some(first) = first {
        first.get_or_insert(at);
    }
}
