//! Adding to one number from many tasks at once: the row's lock is held until its commit is on the
//! disk, so what gathers meanwhile is added in one step.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use fanfare_core::error::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::connect::Database;
use crate::row::get;

/// The most additions in one step.
const STEP: usize = 1_000;

/// What is to be added, by key. A key that is here has a task that adds to it.
#[derive(Debug)]
pub(super) struct Sums {
    database: Arc<Database>,
    waiting: Mutex<HashMap<String, Vec<Wanted>>>,
}

#[derive(Debug)]
struct Wanted {
    by: i64,
    answer: oneshot::Sender<Result<i64>>,
}

impl Sums {
    pub(super) fn new(database: Arc<Database>) -> Arc<Self> {
        Arc::new(Self {
            database,
            waiting: Mutex::default(),
        })
    }

    /// Adds, and answers the sum with this addition and those before it.
    pub(super) async fn add(self: &Arc<Self>, key: &str, by: i64) -> Result<i64> {
        let (answer, answered) = oneshot::channel();
        let wanted = Wanted { by, answer };
        let is_first = match self.waiting.lock().entry(key.to_owned()) {
            Entry::Occupied(mut there) => {
                there.get_mut().push(wanted);
                false
            }
            Entry::Vacant(none) => {
                none.insert(vec![wanted]);
                true
            }
        };
        if is_first {
            tokio::spawn(self.clone().run(key.to_owned()));
        }
        answered
            .await
            .map_err(|e| Error::new(ErrorKind::Unknown, "the addition did not end").because(e))?
    }

    async fn run(self: Arc<Self>, key: String) {
        loop {
            let some = {
                let mut waiting = self.waiting.lock();
                let all = waiting.get_mut(&key).filter(|all| !all.is_empty());
                let Some(all) = all else {
                    waiting.remove(&key);
                    return;
                };
                all.drain(..all.len().min(STEP)).collect::<Vec<_>>()
            };
            self.step(&key, some).await;
        }
    }

    async fn step(&self, key: &str, some: Vec<Wanted>) {
        let total = some
            .iter()
            .try_fold(0_i64, |sum, wanted| sum.checked_add(wanted.by));
        let together = match total {
            Some(total) => self.store(key, total).await.map(|sum| sum - total),
            None => Err(too_large(key)),
        };
        match together {
            Ok(mut sum) => {
                for wanted in some {
                    sum = sum.saturating_add(wanted.by);
                    // Whoever asked may have left.
                    let _ = wanted.answer.send(Ok(sum));
                }
            }
            Err(error) if error.kind() == ErrorKind::Conflict && some.len() > 1 => {
                // One of them may be too much where others are not.
                for wanted in some {
                    let _ = wanted.answer.send(self.store(key, wanted.by).await);
                }
            }
            Err(error) => {
                for wanted in some {
                    let _ = wanted.answer.send(Err(error.duplicate()));
                }
            }
        }
    }

    async fn store(&self, key: &str, by: i64) -> Result<i64> {
        // A value that is no number, or a sum that is none of 64 bits, leaves the row as it is.
        let text = "INSERT INTO ff.state AS s (key, value, version)
             VALUES ($1, convert_to($2::bigint::text, 'UTF8'), nextval('ff.state_version'))
             ON CONFLICT (key) DO UPDATE SET version = excluded.version,
               value = convert_to((ff.number(s.value) + $2)::text, 'UTF8')
             WHERE ff.number(s.value) + $2 BETWEEN -9223372036854775808 AND 9223372036854775807
             RETURNING ff.number(value)::bigint";
        let rows = self.database.write(text, &[&key, &by]).await?;
        let sum = rows.first().map(|row| get(row, 0)).transpose()?;
        sum.ok_or_else(|| too_large(key))
    }
}

fn too_large(key: &str) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("the value of `{key}` is not a number, or the sum would be too large"),
    )
}
