//! The wall clock, waiting, and the dice. The one place of the harness that is not repeatable.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970, by the clock that the server uses too.
#[expect(
    clippy::disallowed_methods,
    reason = "the machine's time is what we compare"
)]
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}

/// Lets the server run for a while before it is killed.
#[expect(
    clippy::disallowed_methods,
    reason = "the moment of a kill is random on purpose"
)]
pub(super) fn pause(duration: Duration) {
    thread::sleep(duration);
}

/// Random enough to choose moments and outcomes (SplitMix64).
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    /// The same seed rolls the same numbers.
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `sides`, or 0.
    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).checked_rem(sides).unwrap_or(0)
    }
}
