//! Shared values in a map.

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::state::{State, Versioned, check_key, check_value};

use crate::backend::{Inner, MemoryBackend};

impl Inner {
    fn write(&mut self, key: &str, value: Bytes) -> u64 {
        self.last_version += 1;
        let version = self.last_version;
        self.state
            .insert(key.to_owned(), Versioned { value, version });
        version
    }
}

#[async_trait]
impl State for MemoryBackend {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        check_key(key)?;
        Ok(self.lock()?.state.get(key).cloned())
    }

    async fn put_if_absent(&self, key: &str, value: Bytes) -> Result<bool> {
        check_key(key)?;
        check_value(&value)?;
        let mut inner = self.lock()?;
        if inner.state.contains_key(key) {
            return Ok(false);
        }
        inner.write(key, value);
        Ok(true)
    }

    async fn compare_and_set(
        &self,
        key: &str,
        expected: Option<u64>,
        value: Bytes,
    ) -> Result<Option<u64>> {
        check_key(key)?;
        check_value(&value)?;
        let mut inner = self.lock()?;
        if inner.state.get(key).map(|found| found.version) != expected {
            return Ok(None);
        }
        Ok(Some(inner.write(key, value)))
    }

    async fn increment(&self, key: &str, by: i64) -> Result<i64> {
        check_key(key)?;
        let mut inner = self.lock()?;
        let before = match inner.state.get(key) {
            None => 0,
            Some(found) => std::str::from_utf8(&found.value)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .ok_or_else(|| {
                    Error::new(
                        ErrorKind::Conflict,
                        format!("the value of `{key}` is not a number"),
                    )
                })?,
        };
        let sum = before.checked_add(by).ok_or_else(|| {
            Error::new(
                ErrorKind::Conflict,
                format!("the value of `{key}` would overflow"),
            )
        })?;
        inner.write(key, Bytes::from(sum.to_string()));
        Ok(sum)
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        check_key(key)?;
        Ok(self.lock()?.state.remove(key).is_some())
    }
}
