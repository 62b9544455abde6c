//! Errors of the client and the server as errors of the contract.

use std::error::Error as _;

use fanfare_core::error::{Error, ErrorKind};
use tokio_postgres::error::SqlState;

/// What an error means for an operation that may be repeated.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn map(error: tokio_postgres::Error) -> Error {
    let (kind, message) = classify(&error);
    Error::new(kind, message).because(said(&error))
}

/// What an error means for an operation that may have happened: where the connection broke, or the
/// server was stopped in the middle, the outcome is not known.
pub(crate) fn map_write(error: tokio_postgres::Error) -> Error {
    if is_interrupted(&error) {
        return Error::new(ErrorKind::Unknown, "the connection to postgres broke")
            .because(said(&error));
    }
    map(error)
}

/// Whether the request may have been carried out without an answer.
fn is_interrupted(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => ends_session(code.code()) || *code == SqlState::QUERY_CANCELED,
        None => is_broken(error) && !is_refusal(error),
    }
}

/// Whether the connection is of no more use.
pub(crate) fn is_broken(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => ends_session(code.code()) || *code == SqlState::READ_ONLY_SQL_TRANSACTION,
        None => error.is_closed() || io_kind(error).is_some(),
    }
}

/// Whether the connection ended, perhaps long before: a new one may well work.
pub(crate) fn had_ended(error: &tokio_postgres::Error) -> bool {
    is_broken(error) && !is_refusal(error)
}

fn is_refusal(error: &tokio_postgres::Error) -> bool {
    io_kind(error) == Some(std::io::ErrorKind::ConnectionRefused)
}

fn ends_session(code: &str) -> bool {
    [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CONNECTION_FAILURE,
        SqlState::CONNECTION_EXCEPTION,
        SqlState::CONNECTION_DOES_NOT_EXIST,
        SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
    ]
    .iter()
    .any(|ends| ends.code() == code)
}

fn io_kind(error: &tokio_postgres::Error) -> Option<std::io::ErrorKind> {
    let source = error.source()?.downcast_ref::<std::io::Error>()?;
    Some(source.kind())
}

fn classify(error: &tokio_postgres::Error) -> (ErrorKind, &'static str) {
    use ErrorKind::{Invalid, Storage, Unauthorized, Unavailable, Unsupported};
    let said = said(error);
    if let Some(code) = error.code() {
        by_code(code.code(), &said)
    } else if said.contains("invalid peer certificate") {
        (Unauthorized, "the certificate of postgres is not trusted")
    } else if said.contains("does not support TLS") {
        (Unsupported, "postgres does not speak TLS")
    } else if is_broken(error) {
        (Unavailable, "postgres cannot be reached")
    } else if said.contains("password missing") {
        (Unauthorized, "postgres asks for a password")
    } else if said.contains("invalid configuration") || said.contains("connection string") {
        (Invalid, "not a postgres URL")
    } else {
        (Storage, "the exchange with postgres failed")
    }
}

/// What a code of the server means, and what it said with it.
pub(crate) fn by_code(code: &str, said: &str) -> (ErrorKind, &'static str) {
    use ErrorKind::{Forbidden, Full, NotFound, Storage, Unauthorized, Unavailable};
    match code {
        "28000" if said.contains("no encryption") => (
            Unauthorized,
            "postgres admits no unencrypted connection of this user: sslmode=require encrypts",
        ),
        "28P01" | "28000" => (Unauthorized, "postgres refuses the credentials"),
        "3D000" => (NotFound, "postgres has no such database"),
        "42501" => (Forbidden, "the postgres role may not do that"),
        "53100" => (Full, "the disk of postgres is full"),
        "53200" => (Full, "postgres is out of memory"),
        "53300" => (Unavailable, "postgres has no connection left"),
        "25006" => (
            Unavailable,
            "postgres is read-only: a standby, or set so by its operator",
        ),
        "57P03" => (Unavailable, "postgres is starting, stopping or recovering"),
        "57014" => (Unavailable, "postgres cancelled the statement"),
        "40001" | "40P01" | "55P03" => (Unavailable, "another transaction was in the way"),
        "42P01" | "3F000" | "42883" => (Unavailable, "the tables of the stream are gone"),
        // Dropped while the statement looked at it.
        "XX000" if said.contains("cache lookup failed") => {
            (Unavailable, "the tables of the stream are gone")
        }
        _ if ends_session(code) => (Unavailable, "postgres ended the connection"),
        _ => (Storage, "postgres answered with an error"),
    }
}

/// The message of the server instead of the client's bare "db error".
fn said(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

/// An answer that no function of ours gives.
pub(crate) fn unexpected(what: &'static str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("unexpected answer of postgres to {what}"),
    )
}
