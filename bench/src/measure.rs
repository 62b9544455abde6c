//! Taking time, processor time and memory. The only place that looks at the machine's clock.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Clock ticks per second in `/proc/self/stat`; Linux has shown 100 to every program for decades.
const TICKS: u64 = 100;

/// Time since a moment.
#[derive(Clone, Copy)]
pub(crate) struct Watch(Instant);

impl Watch {
    #[expect(clippy::disallowed_methods, reason = "the one door to time here")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Latencies in nanoseconds, three digits exact.
pub(crate) type Latencies = Histogram<u64>;

/// An empty set of latencies up to a minute.
#[expect(clippy::expect_used, reason = "these bounds are always allowed")]
pub(crate) fn latencies() -> Latencies {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds")
}

/// One run of one contender.
pub(crate) struct Sample {
    pub(crate) events: u64,
    pub(crate) elapsed: Duration,
    pub(crate) cpu: Duration,
    /// In nanoseconds, by caller; made into a histogram when nobody's time is taken.
    pub(crate) latencies: Vec<Vec<u64>>,
}

impl Sample {
    pub(crate) fn rate(&self) -> f64 {
        self.events as f64 / self.elapsed.as_secs_f64()
    }

    /// Processor microseconds per event, of the whole process.
    pub(crate) fn cpu_per_event(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.events as f64
    }
}

/// A run that has begun.
pub(crate) struct Run {
    watch: Watch,
    cpu: Duration,
}

impl Run {
    pub(crate) fn begin() -> Self {
        Self {
            cpu: cpu(),
            watch: Watch::start(),
        }
    }

    pub(crate) fn end(self, events: usize, latencies: Vec<Vec<u64>>) -> Sample {
        Sample {
            events: events as u64,
            elapsed: self.watch.elapsed(),
            cpu: cpu().saturating_sub(self.cpu),
            latencies,
        }
    }
}

/// Processor time of this process so far; zero where `/proc` does not tell.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything; user and system time are the 12th and 13th behind.
    let behind = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: u64 = behind
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 1_000 / TICKS)
}

/// Resident memory in MiB; zero where `/proc` does not tell.
pub(crate) fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
