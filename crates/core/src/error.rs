//! One error for the whole contract. It answers first whether a retry can help ([`Status`]), then
//! what went wrong ([`ErrorKind`]). Native errors are mapped in each backend's own `error.rs`.

use std::error::Error as StdError;
use std::fmt;

/// The result of every fallible operation of the contract.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input breaks a rule; [`Error::violations`] names every one.
    Invalid,
    /// The event, batch or value is above a named limit.
    TooLarge,
    /// No such event, subscription, dead letter or key.
    NotFound,
    /// It exists already and differs, or its state forbids the change.
    Conflict,
    /// A bound is reached: queue, stream or disk.
    Full,
    /// The outcome is not known. Publishing the same event again is safe.
    Unknown,
    /// The backend cannot be reached now.
    Unavailable,
    /// The deadline passed before anything was sent.
    Timeout,
    /// The lease is over and somebody else may own the delivery.
    Late,
    /// The bus, backend or consumer was closed.
    Closed,
    /// This backend does not offer it; see its capabilities.
    Unsupported,
    /// Wrong or missing credentials.
    Unauthorized,
    /// Not allowed.
    Forbidden,
    /// Another process owns the resource.
    Locked,
    /// Stored data do not verify.
    Corrupt,
    /// A read or write failed below us.
    Storage,
    /// The handler failed.
    Handler,
    /// A cursor points before what retention kept.
    Gone,
    /// A defect of ours.
    Internal,
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The same call will fail again.
    Permanent,
    /// The same call may succeed later.
    Temporary,
    /// It may have happened already; repeating the same event is safe.
    Unknown,
}

/// One broken rule: where and what.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// A JSON pointer to the value, or the empty string for the whole input.
    pub pointer: String,
    /// A sentence for people.
    pub detail: String,
}

impl Violation {
    /// Of the member `name` of the input, or of the whole input when the name is empty.
    pub fn of_member(name: &str, detail: impl Into<String>) -> Self {
        let pointer = if name.is_empty() {
            String::new()
        } else {
            format!("/{}", name.replace('~', "~0").replace('/', "~1"))
        };
        Self {
            pointer,
            detail: detail.into(),
        }
    }
}

/// An error with its kind, what was being done, and the cause below it.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    operation: Option<&'static str>,
    violations: Vec<Violation>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A new error of `kind`; the message is short, lower case, without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            operation: None,
            violations: Vec::new(),
            source: None,
        }))
    }

    /// An [`ErrorKind::Invalid`] error with a single violation.
    pub fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::violating(vec![Violation {
            pointer: pointer.into(),
            detail: detail.into(),
        }])
    }

    /// An [`ErrorKind::Invalid`] error that names every violation.
    pub fn violating(violations: Vec<Violation>) -> Self {
        let message = violations
            .iter()
            .map(|v| v.detail.as_str())
            .collect::<Vec<_>>()
            .join("; ");
        let mut error = Self::new(ErrorKind::Invalid, message);
        error.0.violations = violations;
        error
    }

    /// Says what was being done.
    #[must_use]
    pub fn during(mut self, operation: &'static str) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether trying again can help.
    pub fn status(&self) -> Status {
        match self.0.kind {
            ErrorKind::Unknown => Status::Unknown,
            ErrorKind::Full
            | ErrorKind::Unavailable
            | ErrorKind::Timeout
            | ErrorKind::Locked
            | ErrorKind::Handler => Status::Temporary,
            _ => Status::Permanent,
        }
    }

    /// The message without operation and cause.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Every broken rule, when the kind is [`ErrorKind::Invalid`].
    pub fn violations(&self) -> &[Violation] {
        &self.0.violations
    }

    /// The same error for another waiter of a shared operation: all but the source object,
    /// which is kept as text.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(Box::new(Inner {
            kind: self.0.kind,
            message: self.0.message.clone(),
            operation: self.0.operation,
            violations: self.0.violations.clone(),
            source: self.0.source.as_ref().map(|s| s.to_string().into()),
        }))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(operation) = self.0.operation {
            write!(f, "{operation}: ")?;
        }
        f.write_str(&self.0.message)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|s| s as &(dyn StdError + 'static))
    }
}
