//! Shared values: one document, changed under the lock. Whoever waits for the lock is served with
//! whoever gets it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fanfare_core::error::{Error, ErrorKind, Result};
use fanfare_core::state::{State, Versioned, check_key, check_value};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::backend::{AmqpBackend, locked};
use crate::register::Held;

/// The most calls that wait for one turn.
const MAX_WAITING: usize = 10_000;

/// The calls that wait for a turn.
#[derive(Default)]
pub(crate) struct Values {
    waiting: Mutex<Vec<Call>>,
    turn: tokio::sync::Mutex<()>,
}

type Change = Box<dyn FnOnce(&mut Document) -> Result<Answer> + Send>;

struct Call {
    change: Change,
    answer: oneshot::Sender<Result<Answer>>,
}

enum Answer {
    Value(Option<Versioned>),
    Flag(bool),
    Version(Option<u64>),
    Sum(i64),
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Document {
    version: u64,
    /// Base64 and version.
    values: BTreeMap<String, (String, u64)>,
}

impl Document {
    fn get(&self, key: &str) -> Result<Option<Versioned>> {
        let Some((text, version)) = self.values.get(key) else {
            return Ok(None);
        };
        let corrupt = |e| Error::new(ErrorKind::Corrupt, "a stored value is none").because(e);
        Ok(Some(Versioned {
            value: STANDARD.decode(text).map_err(corrupt)?.into(),
            version: *version,
        }))
    }

    fn put(&mut self, key: String, value: &[u8]) -> u64 {
        self.version += 1;
        self.values
            .insert(key, (STANDARD.encode(value), self.version));
        self.version
    }
}

impl AmqpBackend {
    async fn change(
        &self,
        change: impl FnOnce(&mut Document) -> Result<Answer> + Send + 'static,
    ) -> Result<Answer> {
        self.stream.line.check_open()?;
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.values.waiting.lock();
            if waiting.len() >= MAX_WAITING {
                return Err(Error::new(
                    ErrorKind::Full,
                    "too many calls wait for the state",
                ));
            }
            let change = Box::new(change);
            waiting.push(Call { change, answer });
        }
        let _turn = self.values.turn.lock().await;
        let mut answered = answered;
        // Served in the turn of another?
        if let Ok(answer) = answered.try_recv() {
            return answer;
        }
        locked!(self, |held| self.serve(&held))?;
        let lost = |_| Error::new(ErrorKind::Unknown, "who made the change went away");
        answered.await.map_err(lost)?
    }

    async fn serve(&self, held: &Held) -> Result<()> {
        let calls = std::mem::take(&mut *self.values.waiting.lock());
        if calls.is_empty() {
            return Ok(());
        }
        let queue = self.stream.part("state");
        let (mut document, tags): (Document, _) = held.read(&queue).await?;
        let before = document.version;
        let mut answers = Vec::with_capacity(calls.len());
        for call in calls {
            answers.push(((call.change)(&mut document), call.answer));
        }
        if document.version == before {
            held.put_back(tags).await?;
        } else {
            held.write(&queue, &document, document.version, tags)
                .await?;
        }
        for (answer, to) in answers {
            // Who asked may be gone.
            let _ = to.send(answer);
        }
        Ok(())
    }
}

#[async_trait]
impl State for AmqpBackend {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        check_key(key)?;
        let key = key.to_owned();
        match self
            .change(move |all| all.get(&key).map(Answer::Value))
            .await?
        {
            Answer::Value(value) => Ok(value),
            _ => Err(mixed_up()),
        }
    }

    async fn put_if_absent(&self, key: &str, value: Bytes) -> Result<bool> {
        check_key(key)?;
        check_value(&value)?;
        let key = key.to_owned();
        let put = move |all: &mut Document| {
            let absent = !all.values.contains_key(&key);
            if absent {
                all.put(key, &value);
            }
            Ok(Answer::Flag(absent))
        };
        match self.change(put).await? {
            Answer::Flag(put) => Ok(put),
            _ => Err(mixed_up()),
        }
    }

    async fn compare_and_set(
        &self,
        key: &str,
        expected: Option<u64>,
        value: Bytes,
    ) -> Result<Option<u64>> {
        check_key(key)?;
        check_value(&value)?;
        let key = key.to_owned();
        let set = move |all: &mut Document| {
            let there = all.values.get(&key).map(|(_, version)| *version);
            Ok(Answer::Version(
                (there == expected).then(|| all.put(key, &value)),
            ))
        };
        match self.change(set).await? {
            Answer::Version(version) => Ok(version),
            _ => Err(mixed_up()),
        }
    }

    async fn increment(&self, key: &str, by: i64) -> Result<i64> {
        check_key(key)?;
        let key = key.to_owned();
        let add = move |all: &mut Document| {
            let there = all.get(&key)?;
            let number =
                |value: Versioned| std::str::from_utf8(&value.value).ok()?.parse::<i64>().ok();
            let sum = there
                .map_or(Some(0), number)
                .and_then(|number| number.checked_add(by));
            let text = format!("the value of `{key}` is no number, or the sum is too large");
            let sum = sum.ok_or_else(|| Error::new(ErrorKind::Conflict, text))?;
            all.put(key, sum.to_string().as_bytes());
            Ok(Answer::Sum(sum))
        };
        match self.change(add).await? {
            Answer::Sum(sum) => Ok(sum),
            _ => Err(mixed_up()),
        }
    }

    async fn delete(&self, key: &str) -> Result<bool> {
        check_key(key)?;
        let key = key.to_owned();
        let delete = move |all: &mut Document| {
            let removed = all.values.remove(&key).is_some();
            all.version += u64::from(removed);
            Ok(Answer::Flag(removed))
        };
        match self.change(delete).await? {
            Answer::Flag(removed) => Ok(removed),
            _ => Err(mixed_up()),
        }
    }
}

fn mixed_up() -> Error {
    Error::new(ErrorKind::Internal, "the answer to another call")
}
