//! Small shared values beside the stream: progress counters, inbox marks, leader leases.

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 512;
/// The largest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 64 * 1024;

/// A value and the version that [`State::compare_and_set`] asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Bytes,
    /// Changes with every write, never repeats for a key.
    pub version: u64,
}

/// Atomic operations on single keys, as durable as the stream.
#[async_trait]
pub trait State: Send + Sync {
    /// The value, if there is one.
    async fn get(&self, key: &str) -> Result<Option<Versioned>>;

    /// MUST write only where there is no value; answers whether it did.
    async fn put_if_absent(&self, key: &str, value: Bytes) -> Result<bool>;

    /// MUST write only where the version is still `expected` (`None`: no value); answers the new
    /// version, or none when it lost.
    async fn compare_and_set(
        &self,
        key: &str,
        expected: Option<u64>,
        value: Bytes,
    ) -> Result<Option<u64>>;

    /// MUST add to a decimal number, 0 where there is none, and answer the sum; exact under any
    /// number of concurrent callers.
    async fn increment(&self, key: &str, by: i64) -> Result<i64>;

    /// Removes the value; answers whether there was one.
    async fn delete(&self, key: &str) -> Result<bool>;
}

/// Refuses keys that are empty, too long or hold control characters.
pub fn check_key(key: &str) -> Result<()> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES || key.chars().any(char::is_control) {
        return Err(Error::invalid(
            "/key",
            format!("a key is 1 to {MAX_KEY_BYTES} bytes without control characters"),
        ));
    }
    Ok(())
}

/// Refuses values that are too large.
pub fn check_value(value: &[u8]) -> Result<()> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("a value is at most {MAX_VALUE_BYTES} bytes"),
        ));
    }
    Ok(())
}
