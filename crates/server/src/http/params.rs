//! Reading query parameters and path segments, so that an answer names every violation at once. An unknown parameter
//! is one: a misspelt filter must not list everything.

use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use fanfare::core::error::{Error, Violation};

use crate::http::problem::{Code, Problem};

/// The parameters that are not read yet, and what is wrong so far.
#[derive(Debug)]
pub(crate) struct Params {
    pairs: Vec<(String, String)>,
    violations: Vec<Violation>,
}

impl Params {
    /// Takes a parameter that may stand once.
    pub(crate) fn one(&mut self, name: &str) -> Option<String> {
        let mut values = self.many(name);
        if values.len() > 1 {
            self.violate(name, format!("{name} is given {} times", values.len()));
        }
        values.pop()
    }

    /// Takes every value of a parameter.
    pub(crate) fn many(&mut self, name: &str) -> Vec<String> {
        let (taken, rest) = std::mem::take(&mut self.pairs)
            .into_iter()
            .partition(|(known, _)| known == name);
        self.pairs = rest;
        let taken: Vec<(String, String)> = taken;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    /// Takes a parameter and reads it further.
    pub(crate) fn read<T>(
        &mut self,
        name: &str,
        reader: impl FnOnce(&str) -> Result<T, Error>,
    ) -> Option<T> {
        let text = self.one(name)?;
        match reader(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.violate(name, error.message());
                None
            }
        }
    }

    /// Takes one of a few words.
    pub(crate) fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Option<T> {
        self.read(name, |text| {
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| {
                let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                Error::invalid("", format!("{name} is one of {}", words.join(", ")))
            })
        })
    }

    /// Takes how many items a page holds.
    pub(crate) fn limit(&mut self, default: usize, most: usize) -> usize {
        let given = self.read("limit", |text| match text.parse::<usize>() {
            Ok(limit) if (1..=most).contains(&limit) => Ok(limit),
            _ => Err(Error::invalid(
                "",
                format!("limit is a number from 1 to {most}"),
            )),
        });
        given.unwrap_or(default)
    }

    /// The parameters of these names as they were given: what a cursor is bound to.
    pub(crate) fn describe(&self, names: &[&str]) -> String {
        let given = self
            .pairs
            .iter()
            .filter(|(name, _)| names.contains(&&**name));
        let mut given: Vec<String> = given
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        given.sort();
        given.join("\n")
    }

    /// Notes a broken rule about a parameter.
    pub(crate) fn violate(&mut self, name: &str, detail: impl Into<String>) {
        self.violations.push(Violation {
            pointer: format!("?{name}"),
            detail: detail.into(),
        });
    }

    /// Fails with 400 when anything was wrong, parameters that nobody took included.
    pub(crate) fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.pairs) {
            let detail = format!("`{}` is not a known parameter", name.escape_debug());
            self.violate(&name, detail);
        }
        if self.violations.is_empty() {
            Ok(())
        } else {
            Err(Problem::violating(Code::InvalidQuery, self.violations))
        }
    }
}

/// The variable part of a path, decoded.
#[derive(Debug)]
pub(crate) struct Segment(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(segment)) => Ok(Self(segment)),
            Err(rejection) => Err(Problem::new(Code::Malformed, rejection.body_text())),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|error| Problem::new(Code::InvalidQuery, error.body_text()))?;
        Ok(Self {
            pairs: pairs.0,
            violations: Vec::new(),
        })
    }
}
