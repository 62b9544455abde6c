//! The configuration of a Fanfare process: defaults, then a TOML file, then `FANFARE_*` variables.
//! Unknown keys are errors that name the line; strings expand `${VAR}` and `${VAR:-default}`.
//! What each value does belongs to the part it configures.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use fanfare_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The backend's URL. Default: `sqlite:` in [`Config::data_dir`].
    pub backend: Option<Secret>,
    /// The directory of the embedded backend. Default `./fanfare-data`.
    pub data_dir: PathBuf,
    /// Where the server listens. Default `127.0.0.1:8787`; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Host names that requests may carry beside the loopback ones. Default none.
    pub allowed_hosts: Vec<String>,
    /// Allows listening on other than loopback addresses without API keys. Default false.
    pub insecure: bool,
    /// See [`Log`].
    pub log: Log,
    /// See [`Limits`].
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backend: None,
            data_dir: "./fanfare-data".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8787)),
            allowed_hosts: Vec::new(),
            insecure: false,
            log: Log::default(),
            limits: Limits::default(),
        }
    }
}

/// What is logged to standard error, and how.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// A level, or directives such as `info,fanfare_bus=debug`. Default `info`.
    pub filter: String,
    /// How a line looks. Default `text`.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: "info".into(),
            format: LogFormat::Text,
        }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The most bytes of data in one event. Default 256 KiB.
    pub data_bytes: usize,
    /// The most bytes of one request body. Default 1 MiB.
    pub body_bytes: usize,
    /// The most bytes of a batch body. Default 8 MiB.
    pub batch_bytes: usize,
    /// The most events in a batch. Default 1,000.
    pub batch_events: usize,
    /// How long a stopping server waits for what is running, in seconds. Default 30.
    pub grace_seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            data_bytes: 256 * 1024,
            body_bytes: 1024 * 1024,
            batch_bytes: 8 * 1024 * 1024,
            batch_events: 1000,
            grace_seconds: 30,
        }
    }
}

/// Text that may hold credentials: shown as `***`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

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

/// How configuration sees the environment: a name to its value.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Config {
    /// The defaults, the file if one is given, then the environment.
    pub fn load(file: Option<&Path>, environment: Environment<'_>) -> Result<Self> {
        let mut config = match file {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    Error::new(
                        ErrorKind::Invalid,
                        format!("cannot read {}", path.display()),
                    )
                    .because(error)
                })?;
                Self::parse(&text, &path.display().to_string(), environment)?
            }
            None => Self::default(),
        };
        config.overlay(environment)?;
        Ok(config)
    }

    /// Reads TOML; errors begin with `name:line:`.
    pub fn parse(text: &str, name: &str, environment: Environment<'_>) -> Result<Self> {
        let at = |error: &toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = line_of(text, start);
            let message = error.message().replace("unknown field", "unknown key");
            Error::invalid("", format!("{name}:{line}: {message}"))
        };
        let mut table = DeTable::parse(text).map_err(|error| at(&error))?;
        for (_, value) in table.get_mut().iter_mut() {
            expand_value(value, environment).map_err(|(start, message)| {
                let line = line_of(text, start);
                Error::invalid("", format!("{name}:{line}: {message}"))
            })?;
        }
        Self::deserialize(toml::Deserializer::from(table)).map_err(|error| at(&error))
    }

    /// The backend's URL, given or made from the data directory.
    pub fn backend_url(&self) -> String {
        match &self.backend {
            Some(url) => url.reveal().to_owned(),
            None => format!("sqlite:{}", self.data_dir.display()),
        }
    }

    /// `FANFARE_BACKEND`, `FANFARE_DATA_DIR`, `FANFARE_LISTEN`, `FANFARE_ALLOWED_HOSTS` (comma
    /// separated), `FANFARE_INSECURE` and `FANFARE_LOG` replace what the file says.
    fn overlay(&mut self, environment: Environment<'_>) -> Result<()> {
        let get = |name: &str| environment(name).filter(|value| !value.is_empty());
        if let Some(url) = get("FANFARE_BACKEND") {
            self.backend = Some(Secret(url));
        }
        if let Some(dir) = get("FANFARE_DATA_DIR") {
            self.data_dir = dir.into();
        }
        if let Some(listen) = get("FANFARE_LISTEN") {
            self.listen = listen.parse().map_err(|_| {
                Error::invalid(
                    "/listen",
                    format!("FANFARE_LISTEN: `{listen}` is not an address such as 127.0.0.1:8787"),
                )
            })?;
        }
        if let Some(hosts) = get("FANFARE_ALLOWED_HOSTS") {
            self.allowed_hosts = hosts.split(',').map(|host| host.trim().into()).collect();
        }
        if let Some(insecure) = get("FANFARE_INSECURE") {
            self.insecure = matches!(insecure.as_str(), "1" | "true" | "yes");
        }
        if let Some(filter) = get("FANFARE_LOG") {
            self.log.filter = filter;
        }
        Ok(())
    }
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
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "HOSTNAME" => Some("box\"7".into()),
            "FANFARE_LISTEN" => Some("127.0.0.1:0".into()),
            _ => None,
        }
    }

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text, "fanfare.toml", &environment)
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(parse("").unwrap(), Config::default());
        assert_eq!(Config::default().backend_url(), "sqlite:./fanfare-data");
    }

    #[test]
    fn unknown_keys_are_errors_with_their_line() {
        let error = parse("insecure = false\n\n[limits]\ndata_byte = 3\n").unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("fanfare.toml:4: unknown key `data_byte`"),
            "{text}"
        );
        let text = parse("listen = 3\n").unwrap_err().to_string();
        assert!(text.starts_with("fanfare.toml:1: "), "{text}");
        let text = parse("\nlisten = \n").unwrap_err().to_string();
        assert!(text.starts_with("fanfare.toml:2: "), "{text}");
    }

    #[test]
    fn strings_expand_from_the_environment_and_nothing_else_does() {
        let config = parse(
            "data_dir = '/data/${HOSTNAME}'\nallowed_hosts = ['${NOBODY:-a.example}', '$x']\n",
        )
        .unwrap();
        assert_eq!(config.data_dir, Path::new("/data/box\"7"));
        assert_eq!(config.allowed_hosts, ["a.example", "$x"]);
        let text = parse("\n\nbackend = '${NOBODY}'").unwrap_err().to_string();
        assert!(
            text.starts_with("fanfare.toml:3: `NOBODY` is not set"),
            "{text}"
        );
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let config = Config::load(None, &environment).unwrap();
        assert_eq!(config.listen.port(), 0);
    }

    #[test]
    fn credentials_never_appear_in_debug() {
        let config = parse("backend = 'redis://a:hunter2@b'").unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
