//! When a job runs: pure functions of what its source asks for and how it fared. Who runs it is
//! [`crate::crawler::worker`]'s.

use std::time::Duration;

use crate::events::{Priority, SourceDetails};

/// The longest time between two runs, however often it failed.
const LONGEST: Duration = Duration::from_hours(24);

/// The time between two runs.
pub fn interval(source: &SourceDetails) -> Duration {
    let minutes = match source.priority {
        Priority::Critical => 15,
        Priority::High => 30,
        Priority::Normal => 60,
        Priority::Low => 180,
    };
    let rate = match source.rate_limit.0 {
        ..=5 => 1.5,
        6..=10 => 1.0,
        11..=20 => 0.75,
        21.. => 0.5,
    };
    let depth = match source.max_depth {
        ..=2 => 1.0,
        3..=5 => 1.25,
        6.. => 1.5,
    };
    Duration::from_mins(minutes).mul_f64(rate * depth)
}

/// The time until the next run after so many failures in a row.
pub fn after_failures(interval: Duration, failures: u32) -> Duration {
    // Eight doublings of the shortest interval are more than a day.
    interval.saturating_mul(1 << failures.min(8)).min(LONGEST)
}

/// How long a new job waits for its first run.
pub fn first_delay(priority: Priority) -> Duration {
    Duration::from_mins(match priority {
        Priority::Critical => 0,
        Priority::High => 1,
        Priority::Normal => 5,
        Priority::Low => 10,
    })
}
