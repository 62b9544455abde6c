//! Publishes without pause. What stayed in doubt is usually published again with the same id, as
//! a client is told to do; sometimes it is left alone, as clients do.

use std::fmt::Write as _;

use serde_json::Value;

use super::flight::Cargo;
use super::{Connection, Load};
use crate::Result;
use crate::chaos::chance::{self, Dice};
use crate::chaos::record::Entry;

/// Ids whose intent is synced in one go, before the first of them is published.
const BLOCK: usize = 64;
/// How many ordering keys there are.
const KEYS: u64 = 97;
/// One in so many doubtful publishes is never tried again.
const LEFT_ALONE: u64 = 4;

/// One publisher.
#[derive(Debug)]
pub(super) struct Publisher {
    number: usize,
    batch: usize,
    dice: Dice,
    made: u64,
    /// Intended, not yet published.
    ready: Vec<String>,
    /// Published, outcome not known.
    doubtful: Vec<String>,
}

impl Publisher {
    pub(super) fn new(number: usize, batch: usize, seed: u64) -> Self {
        Self {
            number,
            batch,
            dice: Dice::new(seed),
            made: 0,
            ready: Vec::new(),
            doubtful: Vec::new(),
        }
    }

    /// Publishes once.
    pub(super) fn step(&mut self, load: &Load, connection: &mut Connection) -> Result {
        if load.is_draining() {
            connection.alive = false;
            return Ok(());
        }
        let ids = if self.doubtful.is_empty() {
            self.intend(load)?
        } else {
            std::mem::take(&mut self.doubtful)
        };
        let asked = chance::now();
        let Some(answer) = self.publish(load, connection, &ids) else {
            let doubt = ids.iter().map(|id| Entry::InDoubt { id: id.clone() });
            load.record.add(&doubt.collect::<Vec<_>>())?;
            if self.dice.roll(LEFT_ALONE) != 0 {
                self.doubtful = ids;
            }
            return Ok(());
        };
        let at = chance::now();
        let results = match answer.get("results").and_then(Value::as_array) {
            Some(results) => results.clone(),
            None => vec![answer],
        };
        if results.len() != ids.len() {
            load.wrong(&format!(
                "{} answers to {} events",
                results.len(),
                ids.len()
            ));
        }
        let acks: Vec<Entry> = ids
            .into_iter()
            .zip(&results)
            .map(|(id, result)| acknowledgement(id, result, at))
            .collect();
        load.record.add(&acks)?;
        if acks.iter().all(|ack| matches!(ack, Entry::Acked { .. })) {
            load.pulse.published(self.number, asked, at);
        }
        connection.breathe(load);
        Ok(())
    }

    fn intend(&mut self, load: &Load) -> Result<Vec<String>> {
        if self.ready.len() < self.batch {
            let fresh: Vec<String> = (0..BLOCK).map(|_| self.fresh_id()).collect();
            let intents = fresh.iter().map(|id| Entry::Intent { id: id.clone() });
            load.record.add(&intents.collect::<Vec<_>>())?;
            load.record.sync()?;
            self.ready.extend(fresh);
        }
        Ok(self.ready.split_off(self.ready.len() - self.batch))
    }

    /// Half of them UUIDs, half of them not: backends keep them differently.
    fn fresh_id(&mut self) -> String {
        self.made += 1;
        let (salt, number, made) = (self.dice.roll(1 << 32), self.number, self.made);
        if made % 2 == 0 {
            format!("{salt:08x}-0000-7000-8{number:03x}-{made:012x}")
        } else {
            format!("order-{number}-{made}-{salt:08x}")
        }
    }

    fn publish(&self, load: &Load, connection: &mut Connection, ids: &[String]) -> Option<Value> {
        let events: Vec<String> = ids.iter().map(|id| event(id)).collect();
        let (kind, body) = if self.batch == 1 {
            ("application/cloudevents+json", events.concat())
        } else {
            let body = format!("[{}]", events.join(","));
            ("application/cloudevents-batch+json", body)
        };
        connection.post(load, Cargo::Publish, "/v1/events", kind, &body)
    }
}

fn event(id: &str) -> String {
    let mut event = String::new();
    let _ = write!(
        event,
        r#"{{"specversion":"1.0","id":"{id}","source":"/chaos","type":"chaos.tick","partitionkey":"k{}","datacontenttype":"application/json","data":{}}}"#,
        key(id),
        data(id)
    );
    event
}

/// The ordering key of the event with this id.
pub(crate) fn key(id: &str) -> u64 {
    id.bytes().map(u64::from).sum::<u64>() % KEYS
}

/// Who published the event with this id; see [`Publisher::fresh_id`].
pub(crate) fn publisher(id: &str) -> Option<u64> {
    let (ours, radix) = match id.strip_prefix("order-") {
        Some(rest) => (rest.split('-').next()?, 10),
        None => (id.split('-').nth(3)?.get(1..)?, 16),
    };
    u64::from_str_radix(ours, radix).ok()
}

/// What the event with this id carries, and nothing else will do: 30 to about 1,000 bytes.
pub(super) fn data(id: &str) -> Value {
    let sum: usize = id.bytes().map(usize::from).sum();
    serde_json::json!({ "for": id, "pad": "x".repeat(sum * 37 % 1_000) })
}

fn acknowledgement(id: String, result: &Value, at: u64) -> Entry {
    let told = result.get("id").and_then(Value::as_str);
    let position = result.get("position").and_then(Value::as_str);
    let duplicate = result.get("duplicate").and_then(Value::as_bool);
    match duplicate {
        // Not every backend knows where the first one of a duplicate is.
        Some(duplicate) if told == Some(&id) && (duplicate || position.is_some()) => Entry::Acked {
            id,
            position: position.map(str::to_owned),
            duplicate,
            at,
        },
        _ => Entry::InDoubt { id },
    }
}
