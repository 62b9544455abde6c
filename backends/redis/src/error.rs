//! Errors of the client and the server as errors of the contract.

use std::fmt::Display;

use fanfare_core::error::{Error, ErrorKind};
use redis::RedisError;

/// What an error means for an operation that may be repeated.
pub(crate) fn map(error: RedisError) -> Error {
    let (kind, message) = classify(&error);
    Error::new(kind, message).because(error)
}

/// What an error means for an operation that may have happened: where the connection broke, the
/// outcome is not known.
pub(crate) fn map_write(error: RedisError) -> Error {
    if is_interrupted(&error) {
        let text = if error.is_timeout() {
            "redis gave no answer in time"
        } else {
            "the connection to redis broke"
        };
        return Error::new(ErrorKind::Unknown, text).because(error);
    }
    map(error)
}

/// An error of connecting: whatever broke, nothing had been asked yet.
pub(crate) fn not_connected(error: RedisError) -> RedisError {
    if is_interrupted(&error) {
        return std::io::Error::new(std::io::ErrorKind::ConnectionRefused, error).into();
    }
    error
}

/// Whether the request may have reached the server without an answer.
fn is_interrupted(error: &RedisError) -> bool {
    let io = error.is_io_error() || error.is_timeout() || error.is_connection_dropped();
    io && !error.is_connection_refusal()
}

/// Whether the connection is of no more use.
pub(crate) fn is_broken(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_unrecoverable_error()
        || is_moved(error)
        // A replica now, or cut off, or still loading: another connection may find the new master.
        || error.code().is_some_and(|code| NO_MASTER.contains(&code))
}

const NO_MASTER: [&str; 5] = [
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "NOREPLICAS",
];

/// Whether another server of the cluster has the stream. Nothing was done here.
pub(crate) fn is_moved(error: &RedisError) -> bool {
    error.code() == Some("MOVED") && error.redirect_node().is_some()
}

/// Of several commands sent together, the error of the first where it has one: the others follow it.
pub(crate) fn first_of(error: RedisError) -> RedisError {
    match error.clone().into_server_errors().as_deref() {
        Some([(0, first), ..]) => first.clone().into(),
        _ => error,
    }
}

/// Whether of several commands sent together the first one was run.
pub(crate) fn was_begun(error: &RedisError) -> bool {
    let errors = error.clone().into_server_errors();
    errors.is_some_and(|errors| errors.first().is_some_and(|(at, _)| *at > 0))
}

/// It is stored, but too few replicas said that they have it.
pub(crate) fn unconfirmed(confirmed: impl Display, wanted: usize) -> RedisError {
    let text = format!("stored, but {confirmed} of {wanted} replicas confirmed it in time");
    std::io::Error::new(std::io::ErrorKind::TimedOut, text).into()
}

/// Whether the connection ended, perhaps long before: a new one may well work. A server that does
/// not answer in time is not asked twice.
pub(crate) fn had_ended(error: &RedisError) -> bool {
    is_broken(error) && !error.is_timeout() && !error.is_connection_refusal()
}

fn classify(error: &RedisError) -> (ErrorKind, &'static str) {
    let text = error.to_string();
    let has = |part: &str| text.contains(part);
    match error.code() {
        Some("WRONGPASS" | "NOAUTH") => {
            return (ErrorKind::Unauthorized, "redis refuses the credentials");
        }
        Some("NOPERM") => return (ErrorKind::Forbidden, "the redis user may not do that"),
        Some("READONLY") => return (ErrorKind::Unavailable, "redis is read-only"),
        Some("OOM") => return (ErrorKind::Full, "redis is out of memory"),
        // A script that somebody flushed just after it was loaded was not run either.
        Some("LOADING" | "MASTERDOWN" | "BUSY" | "NOSCRIPT") => {
            return (ErrorKind::Unavailable, "redis cannot answer now");
        }
        Some("NOREPLICAS") => return (ErrorKind::Unavailable, "redis lacks replicas"),
        Some("CLUSTERDOWN") => return (ErrorKind::Unavailable, "the cluster of redis is down"),
        Some("MOVED") => {
            return (ErrorKind::Unavailable, "another server has the stream");
        }
        Some("ASK" | "TRYAGAIN") => {
            return (
                ErrorKind::Unavailable,
                "the stream is moving to another server",
            );
        }
        Some("MISCONF") => return (ErrorKind::Storage, "redis cannot write to its disk"),
        Some("WRONGTYPE") => {
            return (
                ErrorKind::Conflict,
                "a key of the stream holds something else",
            );
        }
        _ => {}
    }
    if has("NOPERM") || has("no permissions") {
        return (ErrorKind::Forbidden, "the redis user may not do that");
    }
    if has("OOM ") || has("used memory > 'maxmemory'") {
        return (ErrorKind::Full, "redis is out of memory");
    }
    if has("READONLY") || has("read only replica") {
        return (ErrorKind::Unavailable, "redis is read-only");
    }
    if has("WRONGPASS") || has("NOAUTH") || has("invalid password") || has("without any password") {
        return (ErrorKind::Unauthorized, "redis refuses the credentials");
    }
    if has("DB index is out of range") {
        return (ErrorKind::Invalid, "redis has no such database");
    }
    if has("cluster support disabled") {
        return (ErrorKind::Invalid, "the server is not one of a cluster");
    }
    if has("unknown command") && has("SENTINEL") {
        return (ErrorKind::Invalid, "the server is not a sentinel");
    }
    if has("WRONGTYPE") {
        return (
            ErrorKind::Conflict,
            "a key of the stream holds something else",
        );
    }
    match error.kind() {
        redis::ErrorKind::AuthenticationFailed => {
            (ErrorKind::Unauthorized, "redis refuses the credentials")
        }
        redis::ErrorKind::InvalidClientConfig => (ErrorKind::Invalid, "not a redis URL"),
        redis::ErrorKind::MasterNameNotFoundBySentinel => {
            (ErrorKind::Invalid, "the sentinels know no such service")
        }
        _ if is_broken(error) => (ErrorKind::Unavailable, "redis cannot be reached"),
        _ => (ErrorKind::Storage, "redis answered with an error"),
    }
}

/// An answer that no script of ours gives.
pub(crate) fn unexpected(what: &'static str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("unexpected answer of redis to {what}"),
    )
}
