//! Patterns over event types: `*` is one segment, `**` is zero or more, at most two of them.
//! The whole pattern `*` means everything; `#` is read as `**`, a last `>` as one or more.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::event_type::{EventType, MAX_SEGMENTS, MAX_TYPE_BYTES, is_segment_char};

/// The most patterns of one subscription.
pub const MAX_PATTERNS: usize = 16;

/// A canonical pattern. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Arc<str>);

impl Pattern {
    /// Matches every event type.
    pub fn everything() -> Self {
        Self("**".into())
    }

    /// Reads and normalises a pattern; the error says which rule is broken.
    pub fn parse(text: &str) -> Result<Self> {
        let canonical = normalise(text).map_err(|detail| Error::invalid("/pattern", detail))?;
        Ok(Self(canonical.into()))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments from left to right.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether it has no wildcard.
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }

    /// Whether an event of `event_type` matches.
    pub fn matches(&self, event_type: &EventType) -> bool {
        self.matches_str(event_type.as_str())
    }

    /// Whether the event type written `text` matches; `text` is not checked.
    pub fn matches_str(&self, text: &str) -> bool {
        // Every event of every subscription comes here. Most patterns have at most one wildcard, at
        // their end; byte by byte, because a search is made for longer texts than these.
        let wildcard = self.0.bytes().position(|byte| byte == b'*');
        match wildcard.and_then(|at| self.0.split_at_checked(at)) {
            None => *self.0 == *text,
            Some((head, "**")) => text.starts_with(head) || head.strip_suffix('.') == Some(text),
            Some((head, "*")) => text
                .strip_prefix(head)
                .is_some_and(|last| !last.bytes().any(|byte| byte == b'.')),
            Some(_) => match_segments(&self.0, text),
        }
    }
}

/// Matches left to right, going back to the last `**` when a later part fails. With at most two
/// `**` and 16 segments that is a few hundred steps at worst.
fn match_segments(pattern: &str, text: &str) -> bool {
    fn split(rest: Option<&str>) -> Option<(&str, Option<&str>)> {
        let rest = rest?;
        Some(match rest.split_once('.') {
            Some((head, tail)) => (head, Some(tail)),
            None => (rest, None),
        })
    }
    let (mut pattern, mut text) = (Some(pattern), Some(text));
    let mut retry: Option<(Option<&str>, Option<&str>)> = None;
    loop {
        match (split(pattern), split(text)) {
            (Some(("**", tail)), _) => {
                if tail.is_none() {
                    return true;
                }
                retry = Some((tail, text));
                pattern = tail;
                continue;
            }
            (Some((p, p_tail)), Some((t, t_tail))) if p == "*" || p == t => {
                pattern = p_tail;
                text = t_tail;
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        // Let the last `**` take one more segment.
        let Some((after, from)) = retry else {
            return false;
        };
        let Some((_, rest)) = split(from) else {
            return false;
        };
        retry = Some((after, rest));
        pattern = after;
        text = rest;
    }
}

fn normalise(text: &str) -> Result<String, String> {
    let shown = text.escape_debug();
    if text.is_empty() {
        return Err("pattern is empty".into());
    }
    if text.len() > MAX_TYPE_BYTES {
        return Err(format!(
            "pattern is {} bytes long, at most {MAX_TYPE_BYTES} are allowed",
            text.len()
        ));
    }
    if text == "*" {
        return Ok("**".into());
    }
    let mut segments: Vec<&str> = Vec::new();
    let count = text.split('.').count();
    for (index, segment) in text.split('.').enumerate() {
        match segment {
            "" => return Err(format!("pattern `{shown}` has an empty segment")),
            "*" => segments.push("*"),
            "**" | "#" => segments.push("**"),
            ">" if index + 1 == count => segments.extend(["*", "**"]),
            ">" => {
                return Err(format!(
                    "pattern `{shown}`: `>` may only be the last segment"
                ));
            }
            _ if segment.chars().all(is_segment_char) => segments.push(segment),
            _ if segment.contains(['*', '#', '>', '?']) => {
                return Err(format!(
                    "pattern `{shown}`: a wildcard must be a whole segment, `{}` is not",
                    segment.escape_debug()
                ));
            }
            _ => {
                return Err(format!(
                    "pattern `{shown}`: segments take A-Z a-z 0-9 _ and -"
                ));
            }
        }
    }
    let segments = push_wildcards_right(&segments);
    if segments.len() > MAX_SEGMENTS {
        return Err(format!(
            "pattern `{shown}` has more than {MAX_SEGMENTS} segments"
        ));
    }
    if segments.iter().filter(|s| **s == "**").count() > 2 {
        return Err(format!("pattern `{shown}` has more than two `**`"));
    }
    let canonical = segments.join(".");
    if canonical.len() > MAX_TYPE_BYTES {
        return Err(format!(
            "pattern `{shown}` is longer than {MAX_TYPE_BYTES} bytes in its canonical form"
        ));
    }
    Ok(canonical)
}

/// In every run of wildcards the `*` come first and a single `**` last: `**.*.**` is `*.**`.
fn push_wildcards_right<'a>(segments: &[&'a str]) -> Vec<&'a str> {
    let mut out = Vec::with_capacity(segments.len());
    let mut many = false;
    for segment in segments {
        match *segment {
            "**" => many = true,
            "*" => out.push("*"),
            literal => {
                if std::mem::take(&mut many) {
                    out.push("**");
                }
                out.push(literal);
            }
        }
    }
    if many {
        out.push("**");
    }
    out
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self.0)
    }
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// The 1 to 16 patterns of a subscription, sorted, without repeats.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<Pattern>", into = "Vec<Pattern>")]
pub struct PatternSet(Arc<[Pattern]>);

impl PatternSet {
    /// Checks the count and brings the set into canonical order.
    pub fn new(patterns: impl IntoIterator<Item = Pattern>) -> Result<Self> {
        let mut patterns: Vec<Pattern> = patterns.into_iter().collect();
        patterns.sort();
        patterns.dedup();
        match patterns.len() {
            0 => Err(Error::invalid(
                "/patterns",
                "a subscription needs at least one pattern",
            )),
            1..=MAX_PATTERNS => Ok(Self(patterns.into())),
            n => Err(Error::invalid(
                "/patterns",
                format!("{n} patterns, at most {MAX_PATTERNS} are allowed"),
            )),
        }
    }

    /// Reads patterns from text.
    pub fn parse<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let patterns = patterns
            .into_iter()
            .map(Pattern::parse)
            .collect::<Result<Vec<_>>>()?;
        Self::new(patterns)
    }

    /// The patterns in canonical order.
    pub fn iter(&self) -> impl Iterator<Item = &Pattern> {
        self.0.iter()
    }

    /// Whether any pattern matches.
    pub fn matches(&self, event_type: &EventType) -> bool {
        self.0.iter().any(|pattern| pattern.matches(event_type))
    }
}

impl From<Pattern> for PatternSet {
    fn from(pattern: Pattern) -> Self {
        Self(Arc::from([pattern]))
    }
}

impl From<PatternSet> for Vec<Pattern> {
    fn from(set: PatternSet) -> Self {
        set.0.to_vec()
    }
}

impl TryFrom<Vec<Pattern>> for PatternSet {
    type Error = Error;

    fn try_from(patterns: Vec<Pattern>) -> Result<Self> {
        Self::new(patterns)
    }
}

impl fmt::Display for PatternSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pattern) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            pattern.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches_str(text)
    }

    #[test]
    fn the_truth_table() {
        for (pattern, text, expected) in [
            ("public.users.create", "public.users.create", true),
            ("public.users.*", "public.users.create", true),
            ("public.*", "public.users.create", false),
            ("*.*.create", "public.users.create", true),
            ("*", "a.b.c", true),
            ("*.*", "a.b.c", false),
            ("email.#", "email", true),
            ("email.>", "email", false),
            ("email.>", "email.a.b", true),
            ("public.**.create", "public.create", true),
            ("public.**.create", "public.a.b.create", true),
            ("public.**.create", "public.a.b.creates", false),
            ("**.a.**", "a", true),
            ("**.a.**", "x.y.a.z", true),
            ("**.a.**", "x.y.z", false),
            ("**.a.*.b", "a.a.x.b", true),
            ("email.**", "email", true),
            ("email.**", "emails", false),
            ("email.**", "email.a.b", true),
            ("email.*", "email", false),
            ("email.*", "emails.a", false),
            ("email.*", "email.a", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn patterns_are_normalised() {
        for (given, canonical) in [
            ("*", "**"),
            ("#", "**"),
            ("**.**", "**"),
            ("**.*", "*.**"),
            ("a.>", "a.*.**"),
            (">", "*.**"),
            ("a.#.*.#", "a.*.**"),
        ] {
            assert_eq!(Pattern::parse(given).unwrap().as_str(), canonical);
        }
        for bad in ["", "a..b", "user*", "a.>.b", "**.a.**.b.**", "a b", "a?"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }
}
