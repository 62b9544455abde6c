//! The options of the in-memory backend.

use fanfare_core::clock::Clock;

/// Bounds and clock.
#[derive(Debug, Clone)]
pub struct MemoryConfig {
    /// The most events kept. Default 1,000,000.
    pub max_events: usize,
    /// The most bytes of events kept, by [`Event::size`](fanfare_core::event::Event::size).
    /// Default 256 MiB.
    pub max_bytes: usize,
    /// The most bytes of data in one event. Default 16 MiB; the bus has its own, lower limit.
    pub max_data_bytes: usize,
    /// Time.
    pub clock: Clock,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            max_events: 1_000_000,
            max_bytes: 256 << 20,
            max_data_bytes: 16 << 20,
            clock: Clock::system(),
        }
    }
}
