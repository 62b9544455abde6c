//! When a failed delivery is tried again: a pure function of the attempt and the policy.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, Violation};
use crate::timestamp::duration;

/// Attempts in total, and an exponential delay between them with a cap and optional jitter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetryPolicy {
    /// Attempts in total, the first included; at least 1, at most 1,000. Default 5.
    pub max_attempts: u32,
    /// The delay after the first failure. Default 1 s.
    #[serde(with = "duration")]
    pub initial: Duration,
    /// What the delay is multiplied by after each failure; 1 to 100. Default 2.
    pub factor: f64,
    /// The longest delay. Default 1 min, at most 7 days.
    #[serde(with = "duration")]
    pub max: Duration,
    /// Spreads each delay over its upper half, so that failures do not come back together.
    /// Default true.
    pub jitter: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            initial: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_mins(1),
            jitter: true,
        }
    }
}

impl RetryPolicy {
    /// `attempts` in total, doubling from 1 s to 1 min.
    pub fn exponential(attempts: u32) -> Self {
        Self {
            max_attempts: attempts,
            ..Self::default()
        }
    }

    /// `attempts` in total, always `delay` apart.
    pub fn fixed(attempts: u32, delay: Duration) -> Self {
        Self {
            max_attempts: attempts,
            initial: delay,
            factor: 1.0,
            max: delay,
            jitter: false,
        }
    }

    /// A single attempt.
    pub fn never() -> Self {
        Self {
            max_attempts: 1,
            ..Self::default()
        }
    }

    /// Names every value out of range.
    pub fn check(&self) -> Result<()> {
        let mut violations = Vec::new();
        let mut require = |ok: bool, name: &str, detail: &str| {
            if !ok {
                violations.push(Violation {
                    pointer: format!("/retry/{name}"),
                    detail: detail.into(),
                });
            }
        };
        require(
            (1..=1000).contains(&self.max_attempts),
            "max_attempts",
            "max_attempts must be 1 to 1000",
        );
        require(
            (1.0..=100.0).contains(&self.factor),
            "factor",
            "factor must be 1 to 100",
        );
        require(
            self.max <= Duration::from_hours(168),
            "max",
            "max must be at most 7d",
        );
        require(
            self.initial <= self.max,
            "initial",
            "initial must not be longer than max",
        );
        if violations.is_empty() {
            Ok(())
        } else {
            Err(Error::violating(violations))
        }
    }

    /// The delay after attempt number `attempt` (from 1) failed; none when it was the last.
    /// `spread` in 0..1 is where in the jitter to fall; without jitter it is not used.
    pub fn delay_after(&self, attempt: u32, spread: f64) -> Option<Duration> {
        if attempt >= self.max_attempts {
            return None;
        }
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let grown = self.initial.as_secs_f64() * self.factor.powi(exponent);
        let capped = grown.min(self.max.as_secs_f64());
        let spread = if self.jitter {
            0.5 + spread.clamp(0.0, 1.0) / 2.0
        } else {
            1.0
        };
        Some(Duration::try_from_secs_f64(capped * spread).unwrap_or(self.max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_end_with_the_attempts() {
        let policy = RetryPolicy {
            max_attempts: 10,
            jitter: false,
            max: Duration::from_secs(10),
            ..RetryPolicy::default()
        };
        let delays: Vec<_> = (1..10)
            .map(|n| policy.delay_after(n, 0.0).unwrap().as_secs())
            .collect();
        assert_eq!(delays, [1, 2, 4, 8, 10, 10, 10, 10, 10]);
        assert_eq!(policy.delay_after(10, 0.0), None);
    }

    #[test]
    fn jitter_stays_in_the_upper_half() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.delay_after(1, 0.0), Some(Duration::from_millis(500)));
        assert_eq!(policy.delay_after(1, 1.0), Some(Duration::from_secs(1)));
    }
}
