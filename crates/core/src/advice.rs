//! What an operator should know about what lies below a stream: a version, a setting or a place that
//! strengthens or weakens a promise, and what to do about it. Whether it works now is its
//! [`health`](crate::admin::Admin::health).

use serde::Serialize;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// As it should be.
    Good,
    /// To be known; right for some.
    Note,
    /// A promise does not hold, or will not for long.
    Bad,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// What was looked at, such as `appendfsync`.
    pub check: &'static str,
    /// How much it matters.
    pub weight: Weight,
    /// What is so, and what that means.
    pub found: String,
    /// What to do; empty where it is good.
    pub todo: String,
}

impl Advice {
    /// All is well.
    pub fn good(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Weight::Good, found, "")
    }

    /// To be known.
    pub fn note(check: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::new(check, Weight::Note, found, todo)
    }

    /// To be mended.
    pub fn bad(check: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::new(check, Weight::Bad, found, todo)
    }

    fn new(
        check: &'static str,
        weight: Weight,
        found: impl Into<String>,
        todo: impl Into<String>,
    ) -> Self {
        Self {
            check,
            weight,
            found: found.into(),
            todo: todo.into(),
        }
    }
}
