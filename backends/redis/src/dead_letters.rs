//! Dead letters as Redis keeps them: each is a hash under `x:<number>`, found by number in the order of
//! death. What is done with them is the fleet crate's.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use fanfare_core::dead_letter::{DeadLetter, DeadLetterFilter, fingerprint};
use fanfare_core::error::Result;
use fanfare_core::position::Position;
use fanfare_core::subscription::SubscriptionName;
use fanfare_core::timestamp::Timestamp;
use fanfare_fleet::{DeadLetterStore, Edit, Redriven, Replaced, Slot, read_data};
use redis::Value;

use crate::connect::{Arguments, Wire};
use crate::error::unexpected;
use crate::place::from_hex;
use crate::scripts::{self, Script};
use crate::subscription;

type Fields = HashMap<String, Vec<u8>>;

#[async_trait]
impl DeadLetterStore for Wire {
    async fn letters(&self, numbers: &[u64]) -> Result<Vec<DeadLetter>> {
        let mut pipeline = redis::pipe();
        for number in numbers {
            pipeline
                .cmd("HGETALL")
                .arg(self.key(&format!("x:{number}")));
        }
        let all: Vec<Fields> = self.run_all(&pipeline).await?;
        let letters = numbers.iter().zip(&all);
        Ok(letters.filter_map(|(id, it)| read(*id, it)).collect())
    }

    async fn letters_after(
        &self,
        filter: &DeadLetterFilter,
        after: u64,
        most: usize,
    ) -> Result<Option<(Vec<DeadLetter>, u64)>> {
        let mut range = redis::cmd("ZRANGEBYSCORE");
        range.arg(self.key("dead"));
        range.arg(format!("({after}")).arg("+inf");
        range.arg("LIMIT").arg(0).arg(most);
        let numbers: Vec<u64> = self.run(&range).await?;
        let Some(last) = numbers.last() else {
            return Ok(None);
        };
        let mut letters = self.letters(&numbers).await?;
        letters.retain(|letter| filter.matches(letter));
        Ok(Some((letters, *last)))
    }

    async fn is_ordered(&self, name: &SubscriptionName) -> Result<bool> {
        let there = subscription::load(self, name).await?;
        Ok(there.is_some_and(|(stored, _)| stored.spec.ordered))
    }

    async fn redrive(&self, letters: Vec<Redriven>) -> Result<u64> {
        let mut arguments = Arguments::default();
        for letter in letters {
            arguments = arguments.number(letter.number).text(letter.key);
            arguments = arguments.bytes(letter.body);
        }
        act(self, &scripts::REDRIVE, &arguments).await
    }

    async fn discard(&self, numbers: &[u64]) -> Result<u64> {
        let mut arguments = Arguments::default();
        for number in numbers {
            arguments = arguments.number(number);
        }
        act(self, &scripts::DISCARD, &arguments).await
    }

    async fn replace(&self, number: u64, edit: Edit) -> Result<Replaced> {
        let arguments = Arguments::default().number(number);
        let arguments = arguments.bytes(edit.before).bytes(edit.after);
        let arguments = arguments.bytes(edit.original);
        Ok(match self.script(&scripts::REPLACE, &arguments).await? {
            Value::BulkString(done) if done == b"changed" => Replaced::Done,
            Value::BulkString(done) if done == b"gone" => Replaced::Gone,
            _ => Replaced::Stale,
        })
    }
}

async fn act(wire: &Wire, script: &Script, arguments: &Arguments) -> Result<u64> {
    match wire.script(script, arguments).await? {
        Value::Int(done) => Ok(u64::try_from(done).unwrap_or(0)),
        _ => Err(unexpected("acting on dead letters")),
    }
}

fn read(id: u64, fields: &Fields) -> Option<DeadLetter> {
    let text = |name: &str| std::str::from_utf8(fields.get(name)?).ok();
    let time = |name: &str| Some(Timestamp::from_nanos(text(name)?.parse().ok()?));
    let (reason, error) = (text("reason")?, text("error")?);
    let body = Bytes::from(fields.get("body")?.clone());
    Some(DeadLetter {
        id: id.to_string(),
        subscription: SubscriptionName::parse(text("sub")?).ok()?,
        position: Position(from_hex(text("pos")?)?),
        body: Slot::decode(body).into(),
        original: fields.get("original").and_then(|bytes| read_data(bytes)),
        reason: reason.to_owned(),
        error: error.to_owned(),
        attempts: text("attempts")?.parse().ok()?,
        first_failure: time("first")?,
        last_failure: time("last")?,
        fingerprint: fingerprint(reason, error),
    })
}
