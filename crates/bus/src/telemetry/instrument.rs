//! Counters, gauges and histograms: plain atomics, no names.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, n: u64) {
        if n > 0 {
            self.0.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// The sum.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Takes away.
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The upper bounds of a histogram's buckets, in microseconds; one more bucket is for the rest.
pub const BUCKET_MICROS: [u64; 15] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 1_000_000,
    5_000_000, 30_000_000,
];

/// Durations in fixed buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKET_MICROS.len() + 1],
    sum_nanos: AtomicU64,
}

impl Histogram {
    /// Counts a duration.
    pub fn record(&self, took: Duration) {
        self.record_many(took, 1);
    }

    /// Counts `n` times the same duration.
    pub fn record_many(&self, took: Duration, n: u64) {
        let nanos = nanos(took);
        if let Some(bucket) = self.buckets.get(bucket_of(nanos)) {
            bucket.fetch_add(n, Ordering::Relaxed);
        }
        self.sum_nanos
            .fetch_add(nanos.saturating_mul(n), Ordering::Relaxed);
    }

    /// Adds durations counted elsewhere: how many fell into each bucket, and their sum.
    pub(crate) fn merge(&self, buckets: &[u64; BUCKET_MICROS.len() + 1], sum_nanos: u64) {
        for (mine, n) in self.buckets.iter().zip(buckets) {
            if *n > 0 {
                mine.fetch_add(*n, Ordering::Relaxed);
            }
        }
        self.sum_nanos.fetch_add(sum_nanos, Ordering::Relaxed);
    }

    /// How many durations fell into each bucket, the rest last.
    pub fn buckets(&self) -> impl Iterator<Item = u64> {
        self.buckets.iter().map(|b| b.load(Ordering::Relaxed))
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.buckets().sum()
    }

    /// The sum of the durations.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed))
    }
}

/// In which bucket a duration falls.
pub(crate) fn bucket_of(nanos: u64) -> usize {
    BUCKET_MICROS
        .iter()
        .position(|bound| nanos <= bound * 1_000)
        .unwrap_or(BUCKET_MICROS.len())
}

/// A duration in nanoseconds; 584 years at most.
pub(crate) fn nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_that_bounds_it() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_micros(50));
        histogram.record(Duration::from_micros(51));
        histogram.record_many(Duration::from_mins(1), 3);
        let buckets: Vec<u64> = histogram.buckets().collect();
        assert_eq!((buckets[0], buckets[1], buckets[15]), (1, 1, 3));
        assert_eq!(histogram.count(), 5);
        assert_eq!(histogram.sum(), Duration::from_micros(180_000_101));
    }
}
