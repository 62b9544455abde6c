//! What a Fanfare process is told: defaults, then the TOML file, then the environment, then the
//! command line. What the values do belongs to the parts that they configure.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fanfare::address::Address;
use fanfare::bus::Limits;
use fanfare::config::{self, Secret};
use fanfare::core::timestamp::duration;
use fanfare_server::ServerConfig;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::failure::{Failure, Result};

/// The configuration file.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// The backend's URL. Default: `sqlite:` in the data directory.
    pub(crate) backend: Option<Secret>,
    /// Where a server keeps the events of a backend that keeps none: a backend's URL, or `none`.
    /// Default: `sqlite:` in the data directory.
    pub(crate) journal: Option<Secret>,
    /// The directory of the embedded backend and of the journal. Default `./fanfare-data`.
    pub(crate) data_dir: PathBuf,
    /// How long a stopping process waits for running handlers. Default 30 s.
    #[serde(with = "duration")]
    pub(crate) grace: Duration,
    /// What the bus bounds.
    pub(crate) bus: Limits,
    /// How the server listens and what it bounds.
    pub(crate) server: ServerConfig,
    /// What is logged.
    pub(crate) log: Log,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backend: None,
            journal: None,
            data_dir: "./fanfare-data".into(),
            grace: Duration::from_secs(30),
            bus: Limits::default(),
            server: ServerConfig::default(),
            log: Log::default(),
        }
    }
}

/// What is logged to standard error, and how.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    /// A level, or directives such as `info,fanfare_bus=debug`. Default `info`.
    filter: String,
    /// How a line looks. Default `text`.
    format: LogFormat,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The options of commands that open a backend themselves.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Overrides {
    /// A TOML file; unknown keys are errors.
    #[arg(long, env = "FANFARE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The backend: sqlite:DIR, memory:, redis://HOST or postgres://HOST/DATABASE, with ?stream=NAME.
    #[arg(
        long,
        env = "FANFARE_BACKEND",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(crate) backend: Option<String>,
    /// The directory of the embedded backend [default: ./fanfare-data].
    #[arg(long, env = "FANFARE_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// What to log: a level, or directives such as info,fanfare_bus=debug.
    #[arg(long, env = "FANFARE_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

impl Settings {
    /// The file, if one is given, under the environment and the command line.
    pub(crate) fn load(overrides: &Overrides) -> Result<Self> {
        let mut settings = match &overrides.config {
            Some(path) => Self::read(path)?,
            None => Self::default(),
        };
        if let Some(dir) = &overrides.data_dir {
            settings.data_dir.clone_from(dir);
            // Whoever names a directory does not mean the backend of the file.
            settings.backend = None;
        }
        if let Some(url) = &overrides.backend {
            settings.backend = Some(url.clone().into());
        }
        if let Some(filter) = &overrides.log {
            settings.log.filter.clone_from(filter);
        }
        Ok(settings)
    }

    fn read(path: &Path) -> Result<Self> {
        Ok(config::read(path, &config::process_environment)?)
    }

    /// The backend's URL; it may hold credentials.
    pub(crate) fn backend_url(&self) -> String {
        match &self.backend {
            Some(url) => url.reveal().to_owned(),
            None => format!("sqlite:{}", self.data_dir.display()),
        }
    }

    /// The backend's URL as it may be shown.
    pub(crate) fn backend_shown(&self) -> Result<String> {
        Ok(Address::parse(&self.backend_url())?.to_string())
    }
}

impl Log {
    /// What `filter` says, or the default.
    pub(crate) fn with(filter: Option<&str>) -> Self {
        let default = Self::default();
        Self {
            filter: filter.map_or(default.filter, Into::into),
            format: default.format,
        }
    }

    /// Sends the log to standard error from now on.
    pub(crate) fn start(&self) -> Result<()> {
        let filter = EnvFilter::try_new(&self.filter).map_err(|error| {
            Failure::usage(format!("`{}` is not a log filter: {error}", self.filter))
        })?;
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let logger = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal() && !no_colour);
        let started = match self.format {
            LogFormat::Text => logger.try_init(),
            LogFormat::Json => logger.json().try_init(),
        };
        started.map_err(|error| Failure::failed(format!("cannot log: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_on_the_command_line_wins_over_a_backend_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("fanfare.toml");
        std::fs::write(
            &file,
            "backend = 'memory:'\n[server]\nlisten = '127.0.0.1:0'\n",
        )
        .unwrap();
        let mut overrides = Overrides {
            config: Some(file),
            backend: None,
            data_dir: None,
            log: None,
        };
        let settings = Settings::load(&overrides).unwrap();
        assert_eq!(settings.backend_url(), "memory:");
        assert_eq!(settings.server.listen, "127.0.0.1:0");
        overrides.data_dir = Some("x".into());
        assert_eq!(
            Settings::load(&overrides).unwrap().backend_url(),
            "sqlite:x"
        );
    }
}
