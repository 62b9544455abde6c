//! What a run found, for programs (serde) and people (`Display`).

use std::fmt;
use std::time::Duration;

use fanfare_core::capability::Capabilities;
use serde::Serialize;

use crate::promise::PROMISES;

/// The result of one run of the suite.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The target's name.
    pub target: String,
    /// What the backend says of itself; none when it could not be opened.
    pub capabilities: Option<Capabilities>,
    /// How many cases passed.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
    /// How many do not apply, by the backend's own capabilities.
    pub not_offered: usize,
    /// How many could not be tried where the target is.
    pub not_tried: usize,
    /// Wall time.
    pub seconds: f64,
    /// What every random choice came from; repeats the run's inputs.
    pub seed: u64,
    /// Every case, by topic and name.
    pub cases: Vec<CaseReport>,
}

/// The result of one case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// The module it lives in.
    pub topic: &'static str,
    /// Its name: a sentence.
    pub name: &'static str,
    /// The number of its promise.
    pub promise: u8,
    /// Wall time.
    pub seconds: f64,
    /// What came out.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came out of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// The promise held.
    Passed,
    /// It did not.
    Failed {
        /// What was seen.
        reason: String,
    },
    /// The backend does not offer what the case needs.
    NotOffered {
        /// Which capability is missing.
        reason: String,
    },
    /// It may hold, and was not tried.
    NotTried {
        /// Why not.
        reason: String,
    },
}

impl Report {
    pub(crate) fn new(
        target: String,
        capabilities: Option<Capabilities>,
        seed: u64,
        took: Duration,
        mut cases: Vec<CaseReport>,
    ) -> Self {
        cases.sort_by_key(|case| (case.topic, case.name));
        let count = |wanted: fn(&Outcome) -> bool| {
            cases.iter().filter(|case| wanted(&case.outcome)).count()
        };
        Self {
            target,
            capabilities,
            passed: count(|o| matches!(o, Outcome::Passed)),
            failed: count(|o| matches!(o, Outcome::Failed { .. })),
            not_offered: count(|o| matches!(o, Outcome::NotOffered { .. })),
            not_tried: count(|o| matches!(o, Outcome::NotTried { .. })),
            seconds: took.as_secs_f64(),
            seed,
            cases,
        }
    }

    /// The cases that failed.
    pub fn failures(&self) -> impl Iterator<Item = &CaseReport> {
        let failed = |case: &&CaseReport| matches!(case.outcome, Outcome::Failed { .. });
        self.cases.iter().filter(failed)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "conformance of {}", self.target)?;
        writeln!(
            f,
            "{:>3}  {:<44} passed failed not offered not tried",
            "", "promise"
        )?;
        for promise in PROMISES {
            let count = |wanted: fn(&Outcome) -> bool| {
                let of_promise = self.cases.iter().filter(|c| c.promise == promise.number);
                of_promise.filter(|c| wanted(&c.outcome)).count()
            };
            let passed = count(|o| matches!(o, Outcome::Passed));
            let failed = count(|o| matches!(o, Outcome::Failed { .. }));
            let absent = count(|o| matches!(o, Outcome::NotOffered { .. }));
            let untried = count(|o| matches!(o, Outcome::NotTried { .. }));
            let (number, title) = (promise.number, promise.title);
            writeln!(
                f,
                "{number:>3}  {title:<44} {passed:>6} {failed:>6} {absent:>11} {untried:>9}"
            )?;
        }
        for case in &self.cases {
            let (topic, name) = (case.topic, case.name);
            match &case.outcome {
                Outcome::Passed => {}
                Outcome::Failed { reason } => writeln!(f, "FAILED {topic}::{name}: {reason}")?,
                Outcome::NotOffered { reason } => {
                    writeln!(f, "not offered {topic}::{name}: {reason}")?;
                }
                Outcome::NotTried { reason } => {
                    writeln!(f, "not tried {topic}::{name}: {reason}")?;
                }
            }
        }
        write!(
            f,
            "{} passed, {} failed, {} not offered, {} not tried in {:.1} s, seed {}",
            self.passed, self.failed, self.not_offered, self.not_tried, self.seconds, self.seed
        )
    }
}
