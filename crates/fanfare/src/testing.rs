//! For the tests of applications: what [`fanfare_bus::testing`] has, and a bus to have it on.

use fanfare_core::Result;
use fanfare_memory::{MemoryBackend, MemoryConfig};

pub use fanfare_bus::assert_published;
pub use fanfare_bus::testing::*;

/// A bus in memory whose clock is moved by hand. Publishing on it returns when every handler is
/// done, retries included.
pub fn bus() -> Result<TestBus> {
    let clock = clock();
    let backend = MemoryBackend::open(MemoryConfig {
        clock: clock.clone(),
        ..MemoryConfig::default()
    });
    TestBus::on(backend, clock)
}
