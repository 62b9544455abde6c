//! The one door to time. Code takes a [`Clock`]; tests take a manual one and move it by hand.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::timestamp::Timestamp;

/// Wall time that never runs backwards within a process, and waiting for it.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System(Arc<Anchor>),
    Manual(Arc<watch::Sender<Timestamp>>),
}

/// Wall time at start, carried on by the monotonic clock, so that a jump of the machine's clock
/// neither ends every lease at once nor stops the timers. Re-anchored slowly is not needed: leases
/// and delays are short, and `recorded` times are informative.
#[derive(Debug)]
struct Anchor {
    wall: Timestamp,
    monotonic: tokio::time::Instant,
    last: Mutex<Timestamp>,
}

impl Clock {
    /// The machine's clock.
    #[expect(clippy::disallowed_methods, reason = "the one door")]
    pub fn system() -> Self {
        let wall = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(Timestamp::EPOCH, |d| Timestamp::EPOCH + d);
        let anchor = Anchor {
            wall,
            monotonic: tokio::time::Instant::now(),
            last: Mutex::new(wall),
        };
        Self(Source::System(Arc::new(anchor)))
    }

    /// A clock that stands still until [`Clock::advance`].
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(watch::Sender::new(start))))
    }

    /// The time now.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System(anchor) => anchor.wall + anchor.monotonic.elapsed(),
            Source::Manual(now) => *now.borrow(),
        }
    }

    /// The time now, strictly later than every earlier answer of this method.
    pub fn tick(&self) -> Timestamp {
        match &self.0 {
            Source::System(anchor) => {
                let mut last = anchor.last.lock();
                *last = self.now().max(*last + Duration::from_nanos(1));
                *last
            }
            Source::Manual(now) => *now.borrow(),
        }
    }

    /// Waits until the clock shows `at` or later.
    pub async fn sleep_until(&self, at: Timestamp) {
        match &self.0 {
            Source::System(anchor) => {
                let ahead = at.since(anchor.wall);
                match anchor.monotonic.checked_add(ahead) {
                    Some(instant) => tokio::time::sleep_until(instant).await,
                    None => std::future::pending().await,
                }
            }
            Source::Manual(now) => {
                let mut seen = now.subscribe();
                // The sender lives as long as `self`, so waiting cannot fail.
                let _ = seen.wait_for(|now| *now >= at).await;
            }
        }
    }

    /// Waits for `duration`.
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now() + duration).await;
    }

    /// Moves a manual clock forward and wakes everyone who waited for that; no effect on a system
    /// clock.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(now) = &self.0 {
            now.send_modify(|now| *now = *now + by);
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_its_sleepers() {
        let clock = Clock::manual(Timestamp::EPOCH);
        let waiting = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(Duration::from_hours(1)).await }
        });
        tokio::task::yield_now().await;
        clock.advance(Duration::from_secs(3599));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        clock.advance(Duration::from_secs(1));
        waiting.await.unwrap();
    }
}
