//! Errors of the client and refusals of the server as errors of the contract.

use async_nats::{ConnectError, ConnectErrorKind};
use fanfare_core::error::{Error, ErrorKind};
use serde::Deserialize;

/// What JetStream says instead of doing what it was asked.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Refusal {
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    description: String,
}

impl Refusal {
    /// Somebody else wrote in between.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self.err_code, 10_071 | 10_164)
    }

    pub(crate) fn is_no_message(&self) -> bool {
        self.err_code == 10_037
    }

    /// The stream is there, with other settings.
    pub(crate) fn is_other_stream(&self) -> bool {
        self.err_code == 10_058
    }

    pub(crate) fn is_no_stream(&self) -> bool {
        self.err_code == 10_059
    }

    /// There is no room, in the stream or for the account.
    pub(crate) fn is_full(&self) -> bool {
        match self.err_code {
            10_002 | 10_023 | 10_027 | 10_028 | 10_047 => true,
            // Whatever the store said: only its bounds are meant.
            10_077 => self.description.contains("maximum"),
            _ => false,
        }
    }

    /// As an error of the contract.
    pub(crate) fn error(&self) -> Error {
        let (kind, message) = match self.err_code {
            10_077 if self.is_full() => (ErrorKind::Full, "the nats stream is full"),
            _ if self.is_full() => (
                ErrorKind::Full,
                "the nats server has no more storage for this account",
            ),
            10_054 => (ErrorKind::TooLarge, "too large for the nats stream"),
            10_059 => (ErrorKind::Unavailable, "the nats stream is gone"),
            10_039 | 10_076 => (
                ErrorKind::Unsupported,
                "JetStream is off for this account of the nats server",
            ),
            10_065 => (
                ErrorKind::Conflict,
                "another nats stream has these subjects",
            ),
            10_060 => (
                ErrorKind::Conflict,
                "another nats stream has the subject of the event",
            ),
            10_058 => (ErrorKind::Conflict, "the nats stream has other settings"),
            10_074 => (
                ErrorKind::Invalid,
                "`replicas` above 1 need a cluster, and this nats-server is alone",
            ),
            10_004..=10_009 => (
                ErrorKind::Unavailable,
                "JetStream has no leader or too few servers now",
            ),
            _ => (ErrorKind::Storage, "JetStream refuses"),
        };
        Error::new(kind, message).because(format!("{} ({})", self.description, self.err_code))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn not_connected(error: ConnectError) -> Error {
    let (kind, message) = match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            let message =
                "nats refuses the credentials: check user and password, or the token, in the URL";
            (ErrorKind::Unauthorized, message)
        }
        ConnectErrorKind::Tls => (ErrorKind::Unavailable, "no encrypted connection to nats"),
        ConnectErrorKind::ServerParse => (ErrorKind::Invalid, "not a nats URL"),
        _ => (ErrorKind::Unavailable, "nats cannot be reached"),
    };
    Error::new(kind, message).because(error.to_string())
}

/// An answer that no server of ours gives.
pub(crate) fn unexpected(what: &'static str) -> Error {
    let message = format!("unexpected answer of nats to {what}");
    Error::new(ErrorKind::Corrupt, message)
}
