//! Configuration files: TOML into any serde type. Unknown keys are errors that name the line, strings
//! expand `${VAR}` and `${VAR:-default}`. What the values are and mean belongs to the program or the
//! part that they configure.

use std::path::Path;

use fanfare_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Text that may hold credentials: shown as `***`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself; not for output.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// How configuration sees the environment: a name to its value.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Reads a TOML file; see [`parse`].
pub fn read<T: DeserializeOwned>(path: &Path, environment: Environment<'_>) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read {}", path.display());
        Error::new(ErrorKind::Invalid, message).because(error)
    })?;
    parse(&text, &path.display().to_string(), environment)
}

/// Reads TOML; errors begin with `name:line:`. Unknown keys are errors where `T` denies them.
pub fn parse<T: DeserializeOwned>(
    text: &str,
    name: &str,
    environment: Environment<'_>,
) -> Result<T> {
    let wrong = |start: usize, message: &str| {
        let line = line_of(text, start);
        let message = message.replace("unknown field", "unknown key");
        Error::invalid("", format!("{name}:{line}: {message}"))
    };
    let wrong_toml = |error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        wrong(start, error.message())
    };
    let mut table = DeTable::parse(text).map_err(wrong_toml)?;
    for (_, value) in table.get_mut().iter_mut() {
        expand_value(value, environment).map_err(|(start, message)| wrong(start, &message))?;
    }
    T::deserialize(toml::Deserializer::from(table)).map_err(wrong_toml)
}

/// Expands the strings in `value`; an error carries where it stands.
fn expand_value(
    value: &mut Spanned<DeValue<'_>>,
    environment: Environment<'_>,
) -> Result<(), (usize, String)> {
    let start = value.span().start;
    match value.get_mut() {
        DeValue::String(text) if text.contains("${") => {
            *text = expand(text, environment)
                .map_err(|message| (start, message))?
                .into();
            Ok(())
        }
        DeValue::Array(items) => items
            .iter_mut()
            .try_for_each(|item| expand_value(item, environment)),
        DeValue::Table(table) => table
            .iter_mut()
            .try_for_each(|(_, item)| expand_value(item, environment)),
        _ => Ok(()),
    }
}

/// Replaces `${VAR}` and `${VAR:-default}`; a variable that is unset or empty takes the default.
/// What comes out is not expanded again.
pub fn expand(text: &str, environment: Environment<'_>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (inner, behind) = after
            .split_once('}')
            .ok_or_else(|| "`${` without `}`".to_owned())?;
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        let found = environment(name).filter(|value| !value.is_empty());
        let value = found.or_else(|| default.map(Into::into)).ok_or_else(|| {
            format!(
                "`{}` is not set and has no default, as in ${{NAME:-default}}",
                name.escape_debug()
            )
        })?;
        out.push_str(before);
        out.push_str(&value);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or_default();
    before.matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        backend: Secret,
        hosts: Vec<String>,
        limits: Limits,
    }

    impl Default for Config {
        fn default() -> Self {
            Self {
                backend: Secret("memory:".into()),
                hosts: Vec::new(),
                limits: Limits::default(),
            }
        }
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Limits {
        body_bytes: u64,
    }

    fn read(text: &str) -> Result<Config> {
        let environment = |name: &str| (name == "HOSTNAME").then(|| "box\"7".to_owned());
        parse(text, "fanfare.toml", &environment)
    }

    fn wrong(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn unknown_keys_and_wrong_values_are_errors_with_their_line() {
        let text = wrong("backend = 'memory:'\n\n[limits]\nbody_byte = 3\n");
        assert!(
            text.starts_with("fanfare.toml:4: unknown key `body_byte`"),
            "{text}"
        );
        let text = wrong("hosts = 3\n");
        assert!(text.starts_with("fanfare.toml:1: "), "{text}");
        let text = wrong("\nhosts = \n");
        assert!(text.starts_with("fanfare.toml:2: "), "{text}");
    }

    #[test]
    fn strings_expand_from_the_environment_and_nothing_else_does() {
        let config = read("hosts = ['${HOSTNAME}.local', '${NOBODY:-a.example}', '$x']\n").unwrap();
        assert_eq!(config.hosts, ["box\"7.local", "a.example", "$x"]);
        assert_eq!(config.limits.body_bytes, 0);
        let text = wrong("\n\nbackend = '${NOBODY}'");
        assert!(
            text.starts_with("fanfare.toml:3: `NOBODY` is not set"),
            "{text}"
        );
    }

    #[test]
    fn credentials_never_appear_in_debug() {
        let config = read("backend = 'redis://a:hunter2@b'").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(config.backend.reveal(), "redis://a:hunter2@b");
    }
}
