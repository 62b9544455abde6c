//! The configuration file. Nothing else tells Pub/Sub from Streams.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use fanfare::config::{Secret, process_environment};
use serde::Deserialize;

/// What `pubsub.toml` and `streams.toml` say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The backend's URL, with the form of the events and the prefix of the channels; may hold a
    /// password.
    pub events: Secret,
    /// The SQLite file of the handlers.
    pub store: PathBuf,
    /// Where HTTP is answered.
    pub listen: SocketAddr,
}

impl Config {
    /// Reads a file; `${NAME:-default}` comes from the environment.
    pub fn read(file: &Path) -> fanfare::core::Result<Self> {
        fanfare::config::read(file, &process_environment)
    }
}
