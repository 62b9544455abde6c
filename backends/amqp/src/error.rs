//! What RabbitMQ and its client say, as errors of the contract. Not where anything is decided.

use fanfare_core::error::{Error, ErrorKind};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

/// While a connection was made.
pub(crate) fn connecting(error: lapin::Error) -> Error {
    use AMQPErrorKind::{Hard, Soft};
    if let lapin::ErrorKind::IOError(io) = error.kind() {
        return line(&io.to_string()).because(error);
    }
    if let lapin::ErrorKind::InvalidProtocolVersion(_) = error.kind() {
        let text = "what listens there does not speak AMQP 0-9-1, as RabbitMQ does";
        return Error::new(ErrorKind::Unsupported, text).because(error);
    }
    let lapin::ErrorKind::ProtocolError(said) = error.kind() else {
        return of(error);
    };
    let (kind, what) = match said.kind() {
        Soft(AMQPSoftError::ACCESSREFUSED) => (
            ErrorKind::Unauthorized,
            "RabbitMQ refuses this user or password",
        ),
        Hard(AMQPHardError::NOTALLOWED) => (
            ErrorKind::Forbidden,
            "RabbitMQ has no such virtual host, or not for this user",
        ),
        _ => return of(error),
    };
    let text = format!("{what}: {}", said.get_message());
    Error::new(kind, text).because(error)
}

/// What became of a line before anything was said over it.
fn line(said: &str) -> Error {
    let (kind, text) = if said.contains("certificate") {
        let text = format!("the server's certificate is not believed: {said}");
        (ErrorKind::Unauthorized, text)
    } else if said.contains("corrupt message") {
        let text = "what listens there does not speak TLS".to_owned();
        (ErrorKind::Unsupported, text)
    } else {
        (
            ErrorKind::Unavailable,
            format!("RabbitMQ is not there: {said}"),
        )
    };
    Error::new(kind, text)
}

/// While something was asked for: nothing of it may have happened.
pub(crate) fn of(error: lapin::Error) -> Error {
    let (kind, text) = match error.kind() {
        lapin::ErrorKind::ProtocolError(said) => {
            (refused(said.kind()), said.get_message().to_string())
        }
        _ => (ErrorKind::Unavailable, "RabbitMQ is not there".to_owned()),
    };
    Error::new(kind, text).because(error)
}

/// After a publish was sent: it may have happened.
pub(crate) fn unknown(error: lapin::Error) -> Error {
    Error::new(ErrorKind::Unknown, "no confirmation came").because(error)
}

/// The broker takes nothing now.
pub(crate) fn blocked(kind: ErrorKind) -> Error {
    let text =
        "RabbitMQ takes no events now, it is low on memory or disk: see `rabbitmqctl list_alarms`";
    Error::new(kind, text)
}

/// Somebody deleted a queue under us.
pub(crate) fn deleted(queue: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no queue `{queue}`"))
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the backend is closed")
}

pub(crate) fn silent() -> Error {
    Error::new(ErrorKind::Unavailable, "RabbitMQ did not answer in time")
}

/// Whether somebody else has the exclusive queue.
pub(crate) fn is_locked(error: &lapin::Error) -> bool {
    is_soft(error, &AMQPSoftError::RESOURCELOCKED)
}

/// Whether the queue or exchange is not there.
pub(crate) fn is_missing(error: &lapin::Error) -> bool {
    is_soft(error, &AMQPSoftError::NOTFOUND)
}

fn is_soft(error: &lapin::Error, wanted: &AMQPSoftError) -> bool {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(said) => {
            matches!(said.kind(), AMQPErrorKind::Soft(soft) if soft == wanted)
        }
        _ => false,
    }
}

fn refused(kind: &AMQPErrorKind) -> ErrorKind {
    match kind {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => ErrorKind::Forbidden,
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => ErrorKind::NotFound,
        AMQPErrorKind::Soft(AMQPSoftError::RESOURCELOCKED) => ErrorKind::Locked,
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => ErrorKind::Conflict,
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::INVALIDPATH) => {
            ErrorKind::Forbidden
        }
        AMQPErrorKind::Hard(AMQPHardError::NOTIMPLEMENTED) => ErrorKind::Unsupported,
        _ => ErrorKind::Unavailable,
    }
}
