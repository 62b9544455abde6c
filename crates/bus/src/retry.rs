//! What a handler's answer means for its delivery. The only place that decides about retries.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use fanfare_core::delivery::Settlement;
use fanfare_core::subscription::SubscriptionSpec;

use crate::handler::Outcome;

/// Reasons that the bus gives for dead letters.
pub mod reason {
    /// The last attempt failed.
    pub const MAX_ATTEMPTS: &str = "max_attempts";
    /// The handler could not read the data.
    pub const UNDECODABLE: &str = "undecodable";
    /// No route matched.
    pub const UNHANDLED: &str = "unhandled";
    /// The target of a forwarding can never take it.
    pub const REFUSED: &str = "refused";
    /// The handler gave up.
    pub const REJECTED: &str = "rejected";
}

/// The settlement of attempt number `attempt` (from 1) that failed with `error`.
pub fn decide(spec: &SubscriptionSpec, attempt: u32, error: &str) -> Settlement {
    decide_at(spec, attempt, error, random_spread())
}

/// [`decide`] for a handler that said when to try again; it does not get more attempts by that.
pub fn decide_after(
    spec: &SubscriptionSpec,
    attempt: u32,
    error: &str,
    wanted: Option<Duration>,
) -> Settlement {
    match decide(spec, attempt, error) {
        Settlement::Retry { after, error } => Settlement::Retry {
            after: wanted.unwrap_or(after),
            error,
        },
        last => last,
    }
}

/// [`decide`] with `spread` in 0..1 as the place in the jitter: a pure function.
pub fn decide_at(spec: &SubscriptionSpec, attempt: u32, error: &str, spread: f64) -> Settlement {
    match spec.retry.delay_after(attempt, spread) {
        Some(after) => Settlement::Retry {
            after,
            error: error.into(),
        },
        None if spec.dead_letter => Settlement::DeadLetter {
            reason: reason::MAX_ATTEMPTS.into(),
            error: error.into(),
        },
        None => Settlement::Drop,
    }
}

/// The settlement of a handler's answer; `error_bytes` bounds the text that is kept.
pub(crate) fn settle(
    spec: &SubscriptionSpec,
    attempt: u32,
    outcome: Outcome,
    error_bytes: usize,
) -> Settlement {
    match outcome {
        Outcome::Ack => Settlement::Ack,
        Outcome::Fail(mut error) => {
            truncate(&mut error, error_bytes);
            decide(spec, attempt, &error)
        }
        Outcome::Settle(Settlement::Retry { after, mut error }) => {
            truncate(&mut error, error_bytes);
            decide_after(spec, attempt, &error, Some(after))
        }
        Outcome::Settle(Settlement::DeadLetter { reason, mut error }) => {
            truncate(&mut error, error_bytes);
            Settlement::DeadLetter { reason, error }
        }
        Outcome::Settle(settlement) => settlement,
    }
}

fn truncate(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
        text.push_str("...");
    }
}

/// A number in 0..1. Every new `RandomState` has other keys, which is all that jitter asks for.
pub(crate) fn random_spread() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 32;
    f64::from(u32::try_from(bits).unwrap_or(0)) / f64::from(u32::MAX)
}

/// Jittered pauses between attempts to reach a backend: from 100 ms, doubling to a maximum.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);

    pub(crate) fn new(max: Duration) -> Self {
        Self {
            next: Self::FIRST.min(max),
            max,
        }
    }

    /// The next pause.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next.mul_f64(0.5 + random_spread() / 2.0);
        self.next = (self.next * 2).min(self.max);
        pause
    }

    /// It was reached.
    pub(crate) fn reset(&mut self) {
        self.next = Self::FIRST.min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use fanfare_core::pattern::Pattern;
    use fanfare_core::retry::RetryPolicy;
    use fanfare_core::subscription::SubscriptionName;

    use super::*;

    fn spec(retry: RetryPolicy) -> SubscriptionSpec {
        let name = SubscriptionName::parse("s").unwrap();
        SubscriptionSpec {
            retry,
            ..SubscriptionSpec::new(name, Pattern::everything().into())
        }
    }

    #[test]
    fn a_failure_is_retried_until_the_attempts_are_used_up() {
        let spec = spec(RetryPolicy::fixed(2, Duration::from_secs(3)));
        let first = Settlement::Retry {
            after: Duration::from_secs(3),
            error: "no".into(),
        };
        assert_eq!(decide(&spec, 1, "no"), first);
        let last = Settlement::DeadLetter {
            reason: "max_attempts".into(),
            error: "no".into(),
        };
        assert_eq!(decide(&spec, 2, "no"), last);
    }

    #[test]
    fn a_handler_chooses_the_delay_but_not_the_attempts() {
        let spec = spec(RetryPolicy::exponential(2));
        let wanted = Settlement::Retry {
            after: Duration::from_hours(1),
            error: "busy".into(),
        };
        let answer = || Outcome::Settle(wanted.clone());
        assert_eq!(settle(&spec, 1, answer(), 100), wanted);
        let last = settle(&spec, 2, answer(), 100);
        assert!(matches!(last, Settlement::DeadLetter { .. }), "{last:?}");
    }

    #[test]
    fn without_dead_letters_the_last_failure_drops() {
        let mut spec = spec(RetryPolicy::never());
        spec.dead_letter = false;
        assert_eq!(decide(&spec, 1, "no"), Settlement::Drop);
    }

    #[test]
    fn a_long_error_is_cut_at_a_character() {
        let spec = spec(RetryPolicy::never());
        let Settlement::DeadLetter { error, .. } = settle(&spec, 1, Outcome::Fail("ää".into()), 3)
        else {
            panic!("not dead");
        };
        assert_eq!(error, "ä...");
    }

    #[test]
    fn the_spread_is_spread() {
        let spreads: Vec<f64> = (0..100).map(|_| random_spread()).collect();
        assert!(spreads.iter().all(|s| (0.0..=1.0).contains(s)));
        assert!(spreads.iter().any(|s| *s < 0.5) && spreads.iter().any(|s| *s > 0.5));
    }
}
