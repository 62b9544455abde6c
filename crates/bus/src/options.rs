//! Every limit and default of the bus, with its unit, in one place.

use std::time::Duration;

use fanfare_core::Result;
use fanfare_core::error::{Error, Violation};
use fanfare_core::timestamp::duration;
use serde::{Deserialize, Serialize};

/// What is bounded in a bus, and how much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The most bytes of data in one event. Default 262,144 (256 KiB).
    pub data_bytes: usize,
    /// The most events in one `publish_all`. Default 1,000.
    pub batch_events: usize,
    /// The most bytes of events in one `publish_all`. Default 8,388,608 (8 MiB).
    pub batch_bytes: usize,
    /// The most events that wait in the queue of `try_publish`. Default 1,000.
    pub queue_events: usize,
    /// The most failures of the queue that the shutdown report lists. Default 1,000; the count
    /// goes on.
    pub queue_failures: usize,
    /// How long a publish waits for a backend that cannot be reached or does not answer.
    /// Default 10 s.
    #[serde(with = "duration")]
    pub publish_timeout: Duration,
    /// The most deliveries that a subscription holds in this process: waiting to start, running
    /// and waiting to be settled. Grown into only while handlers keep up. Default 16,384.
    pub prefetch: usize,
    /// The most bytes of data in those deliveries; one request may go above it by a few events
    /// that are larger than the ones before. Default 33,554,432 (32 MiB).
    pub prefetch_bytes: usize,
    /// The most deliveries asked for at once. Default 1,024.
    pub receive_batch: usize,
    /// How long one request for deliveries waits. Default 20 s.
    #[serde(with = "duration")]
    pub receive_wait: Duration,
    /// The longest pause between attempts to reach a backend that fails. Default 30 s.
    #[serde(with = "duration")]
    pub reconnect_max: Duration,
    /// The most bytes of an error's text that are kept with a delivery. Default 4,096.
    pub error_bytes: usize,
    /// The most pairs of source and event type that metrics tell apart; all others are counted
    /// together. Default 1,000.
    pub label_sets: usize,
    /// The most callers of `publish_and_wait` at once. Default 10,000.
    pub waiters: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            data_bytes: 256 * 1024,
            batch_events: 1_000,
            batch_bytes: 8 * 1024 * 1024,
            queue_events: 1_000,
            queue_failures: 1_000,
            publish_timeout: Duration::from_secs(10),
            prefetch: 16_384,
            prefetch_bytes: 32 * 1024 * 1024,
            receive_batch: 1_024,
            receive_wait: Duration::from_secs(20),
            reconnect_max: Duration::from_secs(30),
            error_bytes: 4_096,
            label_sets: 1_000,
            waiters: 10_000,
        }
    }
}

impl Limits {
    /// Names every limit that is zero: nothing would ever get through.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("data_bytes", self.data_bytes),
            ("batch_events", self.batch_events),
            ("batch_bytes", self.batch_bytes),
            ("queue_events", self.queue_events),
            ("prefetch", self.prefetch),
            ("prefetch_bytes", self.prefetch_bytes),
            ("receive_batch", self.receive_batch),
            ("waiters", self.waiters),
        ];
        let times = [
            ("publish_timeout", self.publish_timeout),
            ("receive_wait", self.receive_wait),
            ("reconnect_max", self.reconnect_max),
        ];
        let zero_sizes = sizes.iter().filter(|(_, n)| *n == 0).map(|(name, _)| name);
        let zero_times = times
            .iter()
            .filter(|(_, t)| t.is_zero())
            .map(|(name, _)| name);
        let violations: Vec<Violation> = zero_sizes
            .chain(zero_times)
            .map(|name| Violation {
                pointer: format!("/limits/{name}"),
                detail: format!("{name} must not be zero"),
            })
            .collect();
        if violations.is_empty() {
            Ok(())
        } else {
            Err(Error::violating(violations))
        }
    }
}

/// What becomes of an event that matches a subscription but no route of its router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unhandled {
    /// Counted, logged and acknowledged.
    #[default]
    Ack,
    /// Counted, logged and kept as a dead letter with the reason `unhandled`.
    DeadLetter,
}

/// How dead letters are redriven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedriveOptions {
    /// The most dead letters per second; as fast as possible when none.
    pub rate: Option<u32>,
    /// The most dead letters in total; all when none.
    pub limit: Option<u64>,
    /// Counts what would be redriven and changes nothing.
    pub dry_run: bool,
}
