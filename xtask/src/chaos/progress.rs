//! What a campaign has come to so far, added up over its rounds and kept as JSON.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::judge::Verdict;
use crate::Result;

/// How the server dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// `kill -9`.
    Kill,
    /// The power of its disk, and then of itself.
    Cut,
}

impl Death {
    /// For file names.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Kill => "kills",
            Self::Cut => "cuts",
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill -9",
            Self::Cut => "power cut",
        })
    }
}

/// One kind of death, added up.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Deaths with at least one publish and one settlement in flight.
    pub(super) landed: u64,
    /// Deaths without; they happened, but do not count.
    pub(super) beside: u64,
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
    pub(super) rounds: u64,
    /// From spawn to the first good answer, in microseconds, once per death.
    pub(super) recoveries: Vec<u64>,
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
        self.publishes_in_flight += round.publishes_in_flight;
        self.settlements_in_flight += round.settlements_in_flight;
        self.forgetful += round.forgetful;
        self.acknowledged += round.acknowledged;
        self.kept_in_doubt += round.kept_in_doubt;
        self.duplicates += round.duplicates;
        self.deliveries += round.deliveries;
        self.redelivered += round.redelivered;
        self.rounds += round.rounds;
        self.recoveries.extend(round.recoveries);
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
        self.rounds += 1;
        self.lost += verdict.lost;
        self.invented += verdict.invented;
        self.breaches += verdict.breaches;
        self.broken.extend(verdict.broken);
    }

    /// One line for people.
    pub(super) fn summary(&self, death: Death) -> String {
        let mut sorted = self.recoveries.clone();
        sorted.sort_unstable();
        let millis = |share: usize| {
            let at = (sorted.len() * share / 1_000).min(sorted.len().saturating_sub(1));
            sorted.get(at).copied().unwrap_or_default() / 1_000
        };
        let forgetful = match death {
            Death::Kill => String::new(),
            Death::Cut => format!(", {} lost an unsynced write as they must", self.forgetful),
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
        let (half, most, max) = (millis(500), millis(990), millis(1_000));
        format!(
            "{death}: {landed} landed with {publishes_in_flight} publishes and \
             {settlements_in_flight} settlements in flight ({beside} beside{forgetful}); \
             {acknowledged} events acknowledged, {lost} lost, {invented} invented, \
             {kept_in_doubt} in doubt and kept, {duplicates} answered as duplicates; \
             {deliveries} deliveries, {redelivered} again from the in-flight window; \
             {breaches} breaches; recovery p50 {half} ms, p99 {most} ms, max {max} ms"
        )
    }
}
