//! What a campaign has come to so far, added up over its rounds and kept as JSON.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::judge::Verdict;
use crate::Result;

/// One kind of fault, added up.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Tally {
    /// Faults with at least one publish and one settlement in flight.
    pub(super) landed: u64,
    /// Faults without; they happened, but do not count.
    pub(super) beside: u64,
    /// How often a broker died by itself of what was done to it, and was started again.
    pub(super) broker_died: u64,
    /// Publishes and settlements in flight, over all landed deaths.
    pub(super) publishes_in_flight: u64,
    pub(super) settlements_in_flight: u64,
    /// Power cuts that lost an unsynced write, as a cut must.
    pub(super) forgetful: u64,
    pub(super) acknowledged: u64,
    pub(super) kept_in_doubt: u64,
    pub(super) duplicates: u64,
    pub(super) deliveries: u64,
    pub(super) redelivered: u64,
    pub(super) copies: u64,
    pub(super) rounds: u64,
    /// From spawn to the first good answer, in microseconds, once per death of the only server.
    pub(super) recoveries: Vec<u64>,
    /// From the end of a fault of the broker until every publisher was acknowledged, and until every
    /// subscription had a delivery, in microseconds.
    pub(super) publishing: Vec<u64>,
    pub(super) delivering: Vec<u64>,
    /// The longest publish, settlement and pull, in microseconds.
    pub(super) longest_calls: [u64; 3],
    pub(super) lost: u64,
    pub(super) invented: u64,
    pub(super) breaches: u64,
    /// The first sentences about them.
    pub(super) broken: Vec<String>,
}

impl Tally {
    /// What an earlier campaign left, or nothing.
    pub(super) fn load(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whole or not at all.
    pub(super) fn save(&self, path: &Path) -> Result {
        let fresh = path.with_extension("new");
        fs::write(&fresh, serde_json::to_vec(self)?)?;
        Ok(fs::rename(fresh, path)?)
    }

    pub(super) fn add(&mut self, round: Self) {
        self.landed += round.landed;
        self.beside += round.beside;
        self.broker_died += round.broker_died;
        self.publishes_in_flight += round.publishes_in_flight;
        self.settlements_in_flight += round.settlements_in_flight;
        self.forgetful += round.forgetful;
        self.acknowledged += round.acknowledged;
        self.kept_in_doubt += round.kept_in_doubt;
        self.duplicates += round.duplicates;
        self.deliveries += round.deliveries;
        self.redelivered += round.redelivered;
        self.copies += round.copies;
        self.rounds += round.rounds;
        self.recoveries.extend(round.recoveries);
        self.publishing.extend(round.publishing);
        self.delivering.extend(round.delivering);
        self.note_calls(round.longest_calls);
        self.lost += round.lost;
        self.invented += round.invented;
        self.breaches += round.breaches;
        self.broken.extend(round.broken);
    }

    /// Takes what the checker found at the end of a round.
    pub(super) fn conclude(&mut self, verdict: Verdict) {
        self.acknowledged += verdict.acknowledged;
        self.kept_in_doubt += verdict.kept_in_doubt;
        self.duplicates += verdict.duplicates;
        self.deliveries += verdict.deliveries;
        self.redelivered += verdict.redelivered;
        self.copies += verdict.copies;
        self.rounds += 1;
        self.lost += verdict.lost;
        self.invented += verdict.invented;
        self.breaches += verdict.breaches;
        self.broken.extend(verdict.broken);
        self.note_calls(verdict.longest_calls);
    }

    fn note_calls(&mut self, longest: [u64; 3]) {
        for (mine, other) in self.longest_calls.iter_mut().zip(longest) {
            *mine = other.max(*mine);
        }
    }

    /// One line for people.
    pub(super) fn summary(&self, fault: Fault) -> String {
        let besides = match fault {
            Fault::PowerCut => format!(", {} lost an unsynced write as they must", self.forgetful),
            _ if self.broker_died > 0 => {
                let times = self.broker_died;
                format!(", {times} times the broker died of it and was started again")
            }
            _ => String::new(),
        };
        let doubled = match self.copies {
            0 => String::new(),
            copies => format!(", {copies} events doubled by the broker"),
        };
        let Self {
            landed,
            beside,
            publishes_in_flight,
            settlements_in_flight,
            acknowledged,
            lost,
            invented,
            kept_in_doubt,
            duplicates,
            deliveries,
            redelivered,
            breaches,
            ..
        } = self;
        let recovery = self.recovery();
        format!(
            "{fault}: {landed} landed with {publishes_in_flight} publishes and \
             {settlements_in_flight} settlements in flight ({beside} beside{besides}); \
             {acknowledged} events acknowledged, {lost} lost, {invented} invented, \
             {kept_in_doubt} in doubt and kept, {duplicates} answered as duplicates; \
             {deliveries} deliveries, {redelivered} again from the in-flight window{doubled}; \
             {breaches} breaches; {recovery}"
        )
    }

    fn recovery(&self) -> String {
        if self.publishing.is_empty() {
            return format!("recovery {}", Spread::of(&self.recoveries));
        }
        let [publish, settlement, pull] = self.longest_calls.map(|micros| micros / 1_000);
        format!(
            "all publish again after {}, all deliver again after {}; \
             longest publish {publish} ms, settlement {settlement} ms, pull {pull} ms",
            Spread::of(&self.publishing),
            Spread::of(&self.delivering),
        )
    }
}

/// How durations are spread, in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Spread {
    p50: u64,
    p99: u64,
    max: u64,
}

impl Spread {
    /// Of microseconds.
    pub(super) fn of(micros: &[u64]) -> Self {
        let mut sorted = micros.to_vec();
        sorted.sort_unstable();
        let millis = |share: usize| {
            let at = (sorted.len() * share / 1_000).min(sorted.len().saturating_sub(1));
            sorted.get(at).copied().unwrap_or_default() / 1_000
        };
        Self {
            p50: millis(500),
            p99: millis(990),
            max: millis(1_000),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p99, max } = self;
        write!(f, "p50 {p50} ms, p99 {p99} ms, max {max} ms")
    }
}
