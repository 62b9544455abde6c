//! How a command ends badly: one line for people and an exit code. Not for library errors, which
//! are converted here.

use std::fmt;
use std::process::ExitCode;

use fanfare::core::{Error, ErrorKind};

/// A command failed or found something broken.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
const USAGE: u8 = 2;
/// The server cannot be reached.
const UNREACHABLE: u8 = 3;

/// Why the command stops, and with which exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// It did not work.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self {
            code: FAILED,
            message: message.into(),
        }
    }

    /// The command line is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            code: USAGE,
            message: message.into(),
        }
    }

    /// The server cannot be reached.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self {
            code: UNREACHABLE,
            message: message.into(),
        }
    }

    /// It did not work, and everything has been said already.
    pub(crate) fn silent() -> Self {
        Self::failed("")
    }

    /// Nobody reads our output any more, as in `| head`: no failure at all.
    pub(crate) fn reader_gone() -> Self {
        Self {
            code: 0,
            message: String::new(),
        }
    }

    /// The same failure with more to say behind it.
    pub(crate) fn with_context(mut self, context: &str) -> Self {
        self.message = format!("{}; {context}", self.message);
        self
    }

    /// The process's exit code.
    pub(crate) fn code(&self) -> ExitCode {
        self.code.into()
    }

    /// Whether there is something to tell.
    pub(crate) fn has_message(&self) -> bool {
        !self.message.is_empty()
    }

    /// Whether the server could not be reached.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.code == UNREACHABLE
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Invalid => Self::usage(error.to_string()),
            _ => Self::failed(error.to_string()),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::reader_gone(),
            _ => Self::failed(error.to_string()),
        }
    }
}
