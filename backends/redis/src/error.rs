//! Errors of the client and the server as errors of the contract.

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
        return Error::new(ErrorKind::Unknown, "the connection to redis broke").because(error);
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
        // A replica now, or still loading: another connection may find the new master.
        || matches!(error.code(), Some("READONLY" | "LOADING" | "MASTERDOWN"))
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
        Some("LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY") => {
            return (ErrorKind::Unavailable, "redis cannot answer now");
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
