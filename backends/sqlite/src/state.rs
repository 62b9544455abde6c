//! Shared values: single keys, changed in the writer's transactions, so that they are as durable as an
//! event. Versions come from one counter and never repeat.

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_core::state::{MAX_KEY_BYTES, MAX_VALUE_BYTES, State, Versioned};
use fanfare_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, OptionalExtension};

use crate::backend::SqliteBackend;
use crate::error;
use crate::row::{integer, unsigned};

#[async_trait]
impl State for SqliteBackend {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        check_key(key)?;
        self.inner.stream.check()?;
        let key = key.to_owned();
        let read = move |db: &Connection| find(db, &key).map_err(error::sqlite);
        self.inner.readers.read(read).await
    }

    async fn put_if_absent(&self, key: &str, value: Bytes) -> Result<bool> {
        let written = self.compare_and_set(key, None, value).await?;
        Ok(written.is_some())
    }

    async fn compare_and_set(
        &self,
        key: &str,
        expected: Option<u64>,
        value: Bytes,
    ) -> Result<Option<u64>> {
        check_key(key)?;
        check_value(&value)?;
        self.inner.stream.check()?;
        let key = key.to_owned();
        let run = move |act: &mut crate::writer::job::Act<'_>| {
            if find(act.tx, &key)?.map(|found| found.version) != expected {
                return Ok(Ok(None));
            }
            put(act.tx, &key, &value).map(|version| Ok(Some(version)))
        };
        self.inner.queue.operate(true, run).await
    }

    async fn increment(&self, key: &str, by: i64) -> Result<i64> {
        check_key(key)?;
        self.inner.stream.check()?;
        let key = key.to_owned();
        let run = move |act: &mut crate::writer::job::Act<'_>| {
            let found = find(act.tx, &key)?;
            let sum = match sum(found.as_ref(), by) {
                Ok(sum) => sum,
                Err(error) => return Ok(Err(error)),
            };
            put(act.tx, &key, sum.to_string().as_bytes())?;
            Ok(Ok(sum))
        };
        self.inner.queue.operate(true, run).await
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        check_key(key)?;
        self.inner.stream.check()?;
        let key = key.to_owned();
        let run = move |act: &mut crate::writer::job::Act<'_>| {
            let mut delete = act.tx.prepare_cached("DELETE FROM state WHERE key = ?1")?;
            delete.execute([&key]).map(|rows| Ok(rows > 0))
        };
        self.inner.queue.operate(false, run).await
    }
}

fn check_key(key: &str) -> Result<()> {
    if (1..=MAX_KEY_BYTES).contains(&key.len()) {
        return Ok(());
    }
    let detail = format!("a key has 1 to {MAX_KEY_BYTES} bytes, not {}", key.len());
    Err(Error::invalid("/key", detail))
}

fn check_value(value: &Bytes) -> Result<()> {
    if value.len() <= MAX_VALUE_BYTES {
        return Ok(());
    }
    let given = value.len();
    Err(Error::new(
        ErrorKind::TooLarge,
        format!("a value has at most {MAX_VALUE_BYTES} bytes, not {given}"),
    ))
}

fn sum(found: Option<&Versioned>, by: i64) -> Result<i64> {
    let Some(found) = found else {
        return Ok(by);
    };
    let number = std::str::from_utf8(&found.value)
        .ok()
        .and_then(|text| text.parse::<i64>().ok())
        .ok_or_else(|| Error::new(ErrorKind::Conflict, "the value is not a decimal number"))?;
    number
        .checked_add(by)
        .ok_or_else(|| Error::new(ErrorKind::Conflict, "the sum does not fit 64 bits"))
}

fn find(db: &Connection, key: &str) -> rusqlite::Result<Option<Versioned>> {
    db.prepare_cached("SELECT value, version FROM state WHERE key = ?1")?
        .query_row([key], |row| {
            Ok(Versioned {
                value: Bytes::from(row.get::<_, Vec<u8>>(0)?),
                version: unsigned(row.get(1)?),
            })
        })
        .optional()
}

fn put(tx: &Connection, key: &str, value: &[u8]) -> rusqlite::Result<u64> {
    let version: i64 = tx
        .prepare_cached(
            "UPDATE meta SET value = value + 1 WHERE key = 'state_version' RETURNING value",
        )?
        .query_row([], |row| row.get(0))?;
    tx.prepare_cached("INSERT OR REPLACE INTO state (key, value, version) VALUES (?1, ?2, ?3)")?
        .execute((key, value, integer(unsigned(version))))?;
    Ok(unsigned(version))
}
