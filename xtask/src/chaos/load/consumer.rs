//! Pulls and settles without pause. One subscription acknowledges at once; one sends each event
//! back once, and drops or dead-letters some; one is ordered, and sends some back. What a consumer held when the server died it
//! either settles afterwards with the old token, or forgets.

use serde_json::{Value, json};

use super::flight::Cargo;
use super::publisher::data;
use super::{Connection, Load};
use crate::Result;
use crate::chaos::chance::{self, Dice};
use crate::chaos::record::{Entry, Outcome, Said};
use crate::json::At;

/// The subscription that is ordered by key.
pub(crate) const ORDERED: &str = "ordered";
/// The names of all subscriptions.
pub(crate) const SUBSCRIPTIONS: [&str; 3] = ["immediate", "retrying", ORDERED];
/// Deliveries in one pull.
const PULL: u64 = 32;

/// One consumer of one subscription.
#[derive(Debug)]
pub(super) struct Consumer {
    sub: &'static str,
    dice: Dice,
    held: Vec<Delivery>,
}

#[derive(Debug)]
struct Delivery {
    token: String,
    outcome: Outcome,
}

impl Consumer {
    pub(super) fn new(sub: &'static str, seed: u64) -> Self {
        Self {
            sub,
            dice: Dice::new(seed),
            held: Vec::new(),
        }
    }

    /// Settles what is held, or pulls.
    pub(super) fn step(&mut self, load: &Load, connection: &mut Connection) -> Result {
        if self.held.is_empty() {
            self.pull(load, connection)?;
        }
        if self.held.is_empty() {
            return Ok(());
        }
        self.settle(load, connection)
    }

    fn pull(&mut self, load: &Load, connection: &mut Connection) -> Result {
        let (since, asked) = (load.record.len(), chance::now());
        let path = format!("/v1/subscriptions/{}/pull", self.sub);
        let body = json!({ "max": PULL, "wait": "50ms" }).to_string();
        let Some(answer) = connection.post(load, Cargo::Pull, &path, "application/json", &body)
        else {
            return Ok(());
        };
        let at = chance::now();
        let mut entries = Vec::new();
        for delivery in answer.at("deliveries").as_array().into_iter().flatten() {
            let (id, token) = (delivery.at("event/id"), delivery.at("delivery"));
            let attempt = delivery
                .at("attempt")
                .as_u64()
                .and_then(|n| n.try_into().ok());
            let (Some(id), Some(token), Some(attempt)) = (id.as_str(), token.as_str(), attempt)
            else {
                load.wrong(&format!("{}: not a delivery: {delivery}", self.sub));
                continue;
            };
            if *delivery.at("event/data") != data(id) {
                load.wrong(&format!("{}: {id} came with other data", self.sub));
            }
            entries.push(Entry::Delivered {
                sub: self.sub.into(),
                id: id.into(),
                token: token.into(),
                attempt,
                since,
                asked,
                at,
            });
            self.held.push(Delivery {
                token: token.into(),
                outcome: self.outcome(id, attempt),
            });
        }
        if !entries.is_empty() {
            load.pulse.delivered(self.sub, asked, at);
        }
        load.record.add(&entries)
    }

    /// The same for one event and attempt, whoever decides.
    fn outcome(&self, id: &str, attempt: u32) -> Outcome {
        let sum: u64 = id.bytes().map(u64::from).sum();
        match (self.sub, attempt) {
            (ORDERED, 1) if sum.is_multiple_of(3) => Outcome::Retry(5_000),
            ("immediate" | ORDERED, _) => Outcome::Ack,
            (_, 1) => Outcome::Retry(5_000 + sum % 4 * 10_000),
            _ if sum.is_multiple_of(40) => Outcome::DeadLetter,
            _ if sum.is_multiple_of(41) => Outcome::Drop,
            _ => Outcome::Ack,
        }
    }

    fn settle(&mut self, load: &Load, connection: &mut Connection) -> Result {
        let at = chance::now();
        let settling = self.held.iter().map(|held| Entry::Settling {
            sub: self.sub.into(),
            token: held.token.clone(),
            outcome: held.outcome,
            at,
        });
        load.record.add(&settling.collect::<Vec<_>>())?;
        let settlements: Vec<Value> = self.held.iter().map(settlement).collect();
        let body = json!({ "settlements": settlements }).to_string();
        let path = format!("/v1/subscriptions/{}/settle", self.sub);
        let kind = "application/json";
        let Some(answer) = connection.post(load, Cargo::Settlement, &path, kind, &body) else {
            return self.adrift(load);
        };
        let (left, at) = (at, chance::now());
        let results = answer.at("results").as_array().cloned().unwrap_or_default();
        if results.len() != self.held.len() {
            load.wrong(&format!("{}: {answer} to {body}", self.sub));
        }
        let settled = self.held.drain(..).zip(&results).map(|(held, result)| {
            let (sub, token) = (self.sub.into(), held.token);
            match said(result) {
                Some(said) => Entry::Settled {
                    sub,
                    token,
                    said,
                    at,
                },
                None => Entry::Adrift { sub, token },
            }
        });
        let settled: Vec<Entry> = settled.collect();
        let adrift = |entry: &Entry| matches!(entry, Entry::Adrift { .. });
        if settled.iter().any(adrift) {
            load.flights.broke_off(Cargo::Settlement, left);
        }
        load.record.add(&settled)
    }

    fn adrift(&mut self, load: &Load) -> Result {
        let adrift = self.held.iter().map(|held| Entry::Adrift {
            sub: self.sub.into(),
            token: held.token.clone(),
        });
        load.record.add(&adrift.collect::<Vec<_>>())?;
        if self.dice.roll(2) == 0 {
            self.held.clear();
        }
        Ok(())
    }
}

fn settlement(held: &Delivery) -> Value {
    let token = &held.token;
    match held.outcome {
        Outcome::Ack => json!({ "delivery": token, "outcome": "ack" }),
        Outcome::Drop => json!({ "delivery": token, "outcome": "drop" }),
        Outcome::DeadLetter => {
            json!({ "delivery": token, "outcome": "dead_letter", "reason": "chaos" })
        }
        Outcome::Retry(after) => {
            let after = format!("{}ms", after / 1_000);
            json!({ "delivery": token, "outcome": "retry", "retry_after": after })
        }
    }
}

/// None for an answer that says nothing, such as an error of the disk.
fn said(result: &Value) -> Option<Said> {
    match result.at("reason").as_str() {
        _ if *result.at("ok") == true => Some(Said::Done),
        Some("late") => Some(Said::Late),
        Some("settled") => Some(Said::Already),
        Some("unknown") => Some(Said::Unknown),
        _ => None,
    }
}
