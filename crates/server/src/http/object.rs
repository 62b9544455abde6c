//! Reading JSON objects member by member, so that an answer names every violation at once, with a
//! JSON pointer each. It reads requests; answers are plain serde.

use std::fmt;

use fanfare::core::error::{Error, Violation};
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::http::problem::{Code, Problem};

/// The deepest nesting of arrays and objects in a request body.
pub(crate) const MAX_DEPTH: usize = 64;

/// The members of an object that are not read yet, and what is wrong so far.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    at: String,
    members: Vec<(String, &'a RawValue)>,
    violations: Vec<Violation>,
}

impl<'a> Object<'a> {
    /// Reads a body: 400 when it is not JSON, 422 when it is not an object.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Problem> {
        check_depth(body, MAX_DEPTH)?;
        let raw = json(body)?;
        Self::within("", raw)
            .map_err(|violation| Problem::violating(Code::Invalid, vec![violation]))
    }

    /// Reads a value inside a body, which stands at `pointer`.
    pub(crate) fn within(pointer: &str, raw: &'a RawValue) -> Result<Self, Violation> {
        let members: Members<'a> = serde_json::from_str(raw.get()).map_err(|_| Violation {
            pointer: pointer.into(),
            detail: "a JSON object is expected".into(),
        })?;
        let mut object = Self {
            at: pointer.into(),
            members: Vec::with_capacity(members.0.len()),
            violations: Vec::new(),
        };
        for (name, value) in members.0 {
            if object.members.iter().any(|(known, _)| *known == name) {
                object.violate(&name, format!("`{}` is given twice", name.escape_debug()));
            } else {
                object.members.push((name, value));
            }
        }
        Ok(object)
    }

    /// Takes a member as it stands; `null` is a value here.
    pub(crate) fn raw(&mut self, name: &str) -> Option<&'a RawValue> {
        let found = self.members.iter().position(|(known, _)| known == name)?;
        Some(self.members.swap_remove(found).1)
    }

    /// Takes a member; `null` counts as absent.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str, expected: &str) -> Option<T> {
        let raw = self.raw(name)?;
        if let Ok(value) = serde_json::from_str::<Option<T>>(raw.get()) {
            return value;
        }
        self.violate(name, format!("{name} must be {expected}"));
        None
    }

    /// Takes a string and reads it further.
    pub(crate) fn read<T>(
        &mut self,
        name: &str,
        reader: impl FnOnce(&str) -> Result<T, Error>,
    ) -> Option<T> {
        let text: String = self.take(name, "a string")?;
        match reader(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.violate(name, error.message());
                None
            }
        }
    }

    /// Takes an object.
    pub(crate) fn object(&mut self, name: &str) -> Option<Self> {
        let raw = self.raw(name)?;
        if raw.get() == "null" {
            return None;
        }
        match Self::within(&self.pointer(name), raw) {
            Ok(object) => Some(object),
            Err(violation) => {
                self.violations.push(violation);
                None
            }
        }
    }

    /// Takes an array of at most `most` strings and reads each further.
    pub(crate) fn strings<T>(
        &mut self,
        name: &str,
        most: usize,
        reader: impl Fn(&str) -> Result<T, Error>,
    ) -> Option<Vec<T>> {
        let values = self.array(name, most)?;
        let mut read = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let outcome = match serde_json::from_str::<String>(value.get()) {
                Ok(text) => reader(&text),
                Err(_) => Err(Error::invalid("", "a string is expected")),
            };
            match outcome {
                Ok(value) => read.push(value),
                Err(error) => self.violations.push(Violation {
                    pointer: format!("{}/{index}", self.pointer(name)),
                    detail: error.message().into(),
                }),
            }
        }
        Some(read)
    }

    /// Takes an array of at most `most` values.
    pub(crate) fn array(&mut self, name: &str, most: usize) -> Option<Vec<&'a RawValue>> {
        let raw = self.raw(name)?;
        let Ok(values) = serde_json::from_str::<Option<Vec<&'a RawValue>>>(raw.get()) else {
            self.violate(name, format!("{name} must be an array"));
            return None;
        };
        let values = values?;
        if values.len() > most {
            let given = values.len();
            self.violate(
                name,
                format!("{name} holds {given} values, at most {most} are taken"),
            );
            return None;
        }
        Some(values)
    }

    /// Says that `value` of member `name` was required, unless its own violation said more.
    pub(crate) fn require<T>(&mut self, name: &str, value: Option<T>) -> Option<T> {
        if value.is_none() && !self.is_violated_at(name) {
            self.violate(name, format!("{name} is missing"));
        }
        value
    }

    /// Whether something is wrong with a member or inside it.
    pub(crate) fn is_violated_at(&self, name: &str) -> bool {
        let pointer = self.pointer(name);
        let inside = |v: &Violation| {
            v.pointer
                .strip_prefix(&pointer)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.violations.iter().any(inside)
    }

    /// Notes a broken rule about member `name`.
    pub(crate) fn violate(&mut self, name: &str, detail: impl Into<String>) {
        self.violations.push(Violation {
            pointer: self.pointer(name),
            detail: detail.into(),
        });
    }

    /// Notes broken rules whose pointers are already whole, or relative to this object.
    pub(crate) fn absorb(&mut self, violations: impl IntoIterator<Item = Violation>) {
        self.violations.extend(violations);
    }

    /// The violations, members that nobody took among them.
    pub(crate) fn violations(mut self) -> Vec<Violation> {
        let unknown: Vec<String> = self.members.iter().map(|(name, _)| name.clone()).collect();
        for name in unknown {
            let detail = format!("`{}` is not a known member", name.escape_debug());
            self.violate(&name, detail);
        }
        self.violations
    }

    /// Fails with 422 when anything was wrong.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        let violations = self.violations();
        if violations.is_empty() {
            Ok(())
        } else {
            Err(Problem::violating(Code::Invalid, violations))
        }
    }

    /// [`Object::finish`], with a value that was required: where it is missing, that is among the
    /// violations.
    pub(crate) fn finish_with<T>(self, value: Option<T>) -> Result<T, Problem> {
        self.finish()?;
        value.ok_or_else(|| Problem::new(Code::Invalid, "a required member is missing"))
    }

    /// The JSON pointer of a member.
    fn pointer(&self, name: &str) -> String {
        format!("{}/{}", self.at, escape(name))
    }
}

/// Checks that `body` is JSON text.
pub(crate) fn json(body: &[u8]) -> Result<&RawValue, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::new(Code::Malformed, format!("the body is not JSON: {error}")))
}

/// Fails when arrays and objects are nested deeper than `most`; reads no further than that.
pub(crate) fn check_depth(body: &[u8], most: usize) -> Result<(), Problem> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > most {
            let detail = format!("the JSON is nested deeper than {MAX_DEPTH} levels");
            return Err(Problem::new(Code::Malformed, detail));
        }
    }
    Ok(())
}

fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, &'de RawValue>()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(body: &str, read: impl FnOnce(&mut Object<'_>)) -> Vec<String> {
        let mut object = Object::parse(body.as_bytes()).unwrap();
        read(&mut object);
        let violations = object.violations();
        violations.into_iter().map(|v| v.pointer).collect()
    }

    #[test]
    fn every_violation_is_named_at_once() {
        let body = r#"{"a":"x","a":1,"b":true,"c":null,"d/e":1}"#;
        let found = pointers(body, |object| {
            let b: Option<u32> = object.take("b", "a number");
            let c: Option<u32> = object.take("c", "a number");
            let f: Option<u32> = object.take("f", "a number");
            assert!(b.is_none() && c.is_none());
            object.require("f", f);
        });
        assert_eq!(found, ["/a", "/b", "/f", "/a", "/d~1e"]);
    }

    #[test]
    fn depth_is_counted_outside_strings_only() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(check_depth(deep(64).as_bytes(), 64).is_ok());
        assert!(check_depth(deep(65).as_bytes(), 64).is_err());
        assert!(check_depth(format!("\"\\\"{}\"", "[".repeat(100)).as_bytes(), 64).is_ok());
    }

    #[test]
    fn broken_text_is_malformed() {
        for body in [&b"{"[..], b"", b"{\"a\":\"\xff\"}", b"{} {}"] {
            let problem = Object::parse(body).unwrap_err();
            assert_eq!(problem.code(), Code::Malformed);
        }
    }
}
