//! Shared values: the last message of a subject each, written only over the one that was read.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{BufMut as _, Bytes, BytesMut};
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::state::{State, Versioned, check_key, check_value};

use tokio::sync::watch;

use crate::connect::{Failed, Wire};

/// Before every value, so that an empty one is something else than none.
const VALUE: u8 = 1;
/// How many keys may be added to at once in this process.
const LANES: usize = 64;

/// Adding to a number reads it first: whoever does that in this process does it one after the other.
#[derive(Debug)]
struct Lanes(Vec<tokio::sync::Mutex<()>>);

impl Default for Lanes {
    fn default() -> Self {
        Self((0..LANES).map(|_| tokio::sync::Mutex::default()).collect())
    }
}

impl Lanes {
    fn of(&self, key: &str) -> Option<&tokio::sync::Mutex<()>> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let lane = usize::try_from(hasher.finish() % LANES as u64).ok()?;
        self.0.get(lane)
    }
}

/// What stands at a key: a value, the mark of a deletion, or nothing (0).
struct There {
    version: u64,
    value: Option<Bytes>,
}

/// The shared values of a stream.
#[derive(Debug)]
pub(crate) struct Values {
    wire: Arc<Wire>,
    lanes: Lanes,
    closed: watch::Receiver<bool>,
    /// Why there are none.
    refused: Option<&'static str>,
}

impl Values {
    pub(crate) fn new(wire: Arc<Wire>, closed: watch::Receiver<bool>) -> Self {
        Self {
            wire,
            lanes: Lanes::default(),
            closed,
            refused: None,
        }
    }

    /// Where nothing can keep any, because of this.
    pub(crate) fn refusing(mut self, why: &'static str) -> Self {
        self.refused = Some(why);
        self
    }

    fn check(&self) -> Result<()> {
        if *self.closed.borrow() {
            return Err(Error::new(ErrorKind::Closed, "the backend is closed"));
        }
        let refused = self
            .refused
            .map(|why| Error::new(ErrorKind::Unsupported, why));
        refused.map_or(Ok(()), Err)
    }

    async fn there(&self, key: &str) -> Result<There> {
        self.check()?;
        check_key(key)?;
        let kept = self.wire.last(&self.wire.names.value(key)).await?;
        Ok(kept.map_or(
            There {
                version: 0,
                value: None,
            },
            |kept| There {
                version: kept.seq,
                value: (!kept.data.is_empty()).then(|| kept.data.slice(1..)),
            },
        ))
    }

    /// Writes over that version; none: there is another by now.
    async fn put(&self, key: &str, over: u64, value: Option<&[u8]>) -> Result<Option<u64>> {
        let mut data = BytesMut::new();
        if let Some(value) = value {
            data.put_u8(VALUE);
            data.put_slice(value);
        }
        let subject = self.wire.names.value(key);
        let until = self.wire.patience();
        let written = self
            .wire
            .write(&subject, &data.freeze(), Some(over), until)
            .await;
        match written.map_err(Failed::error)? {
            Ok(written) => Ok(Some(written.seq)),
            Err(refusal) if refusal.is_conflict() => Ok(None),
            Err(refusal) => Err(refusal.error()),
        }
    }
}

#[async_trait]
impl State for Values {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        let There { version, value } = self.there(key).await?;
        Ok(value.map(|value| Versioned { value, version }))
    }

    async fn put_if_absent(&self, key: &str, value: Bytes) -> Result<bool> {
        check_value(&value)?;
        loop {
            let there = self.there(key).await?;
            if there.value.is_some() {
                return Ok(false);
            }
            if self.put(key, there.version, Some(&value)).await?.is_some() {
                return Ok(true);
            }
        }
    }

    async fn compare_and_set(
        &self,
        key: &str,
        expected: Option<u64>,
        value: Bytes,
    ) -> Result<Option<u64>> {
        check_value(&value)?;
        let there = self.there(key).await?;
        let found = there.value.is_some().then_some(there.version);
        if found != expected {
            return Ok(None);
        }
        self.put(key, there.version, Some(&value)).await
    }

    async fn increment(&self, key: &str, by: i64) -> Result<i64> {
        let lane = self.lanes.of(key);
        let _alone = match lane {
            Some(lane) => Some(lane.lock().await),
            None => None,
        };
        loop {
            let there = self.there(key).await?;
            let before = there.value.as_deref().map_or(Some(0), number);
            let conflict = |what: &str| {
                Error::new(ErrorKind::Conflict, format!("the value of `{key}` {what}"))
            };
            let before = before.ok_or_else(|| conflict("is not a number"))?;
            let sum = before.checked_add(by);
            let sum = sum.ok_or_else(|| conflict("would overflow"))?;
            let text = sum.to_string();
            if self
                .put(key, there.version, Some(text.as_bytes()))
                .await?
                .is_some()
            {
                return Ok(sum);
            }
        }
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        loop {
            let there = self.there(key).await?;
            if there.value.is_none() {
                return Ok(false);
            }
            if let Some(mark) = self.put(key, there.version, None).await? {
                // The mark itself goes too; what was written over it meanwhile stays.
                self.wire.forget(&self.wire.names.value(key), mark).await?;
                return Ok(true);
            }
        }
    }
}

fn number(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}
