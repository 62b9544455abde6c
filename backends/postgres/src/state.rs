//! Shared values: one row each. A version is drawn from a sequence, so that none repeats.

mod sums;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_core::error::Result;
use fanfare_core::state::{State, Versioned, check_key, check_value};

use self::sums::Sums;
use crate::backend::PostgresBackend;
use crate::connect::{Database, Param};
use crate::row::get;

/// What this process does with shared values now.
#[derive(Debug)]
pub(crate) struct Values(Arc<Sums>);

impl Values {
    pub(crate) fn new(database: Arc<Database>) -> Self {
        Self(Sums::new(database))
    }
}

impl PostgresBackend {
    /// The number that a statement answers, if it changed anything.
    async fn change(&self, text: &'static str, params: &[Param<'_>]) -> Result<Option<i64>> {
        let rows = self.database.write(text, params).await?;
        rows.first().map(|row| get(row, 0)).transpose()
    }
}

#[async_trait]
impl State for PostgresBackend {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        self.check_open()?;
        check_key(key)?;
        let text = "SELECT value, version FROM ff.state WHERE key = $1";
        let rows = self.database.read(text, &[&key]).await?;
        let read = |row| {
            Ok(Versioned {
                value: Bytes::from(get::<Vec<u8>>(row, 0)?),
                version: get::<i64>(row, 1)?.cast_unsigned(),
            })
        };
        rows.first().map(read).transpose()
    }

    async fn put_if_absent(&self, key: &str, value: Bytes) -> Result<bool> {
        Ok(self.compare_and_set(key, None, value).await?.is_some())
    }

    async fn compare_and_set(
        &self,
        key: &str,
        expected: Option<u64>,
        value: Bytes,
    ) -> Result<Option<u64>> {
        self.check_open()?;
        check_key(key)?;
        check_value(&value)?;
        let value = &value[..];
        let version = if let Some(expected) = expected {
            let text = "UPDATE ff.state SET value = $2, version = nextval('ff.state_version')
                        WHERE key = $1 AND version = $3 RETURNING version";
            let expected = i64::try_from(expected).unwrap_or(-1);
            self.change(text, &[&key, &value, &expected]).await?
        } else {
            let text = "INSERT INTO ff.state (key, value, version)
                        VALUES ($1, $2, nextval('ff.state_version'))
                        ON CONFLICT (key) DO NOTHING RETURNING version";
            self.change(text, &[&key, &value]).await?
        };
        Ok(version.map(i64::cast_unsigned))
    }

    async fn increment(&self, key: &str, by: i64) -> Result<i64> {
        self.check_open()?;
        check_key(key)?;
        self.values.0.add(key, by).await
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        self.check_open()?;
        check_key(key)?;
        let text = "DELETE FROM ff.state WHERE key = $1 RETURNING version";
        Ok(self.change(text, &[&key]).await?.is_some())
    }
}
