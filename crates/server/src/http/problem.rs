//! Errors as RFC 9457 problems: the one table of codes, and how errors of the contract map to it.
//! Handlers answer `Result<_, Problem>`; nothing else in the server builds an error body.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fanfare::core::error::{Error, ErrorKind, Violation};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:ident, $title:literal;)*) => {
        /// Everything that can go wrong, by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code, in the order of the table in `docs/spec/http-api.md`.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The `code` member, and the end of `type`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The HTTP status that goes with it.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// The `title` member: the same for every problem of this code.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// Not JSON, not UTF-8, nested too deeply, or a broken header.
    Malformed = "malformed", BAD_REQUEST, "The request cannot be read";
    /// An unknown or bad query parameter.
    InvalidQuery = "invalid_query", BAD_REQUEST, "The query breaks a rule";
    /// Not a cursor of ours, or one of another filter.
    InvalidCursor = "invalid_cursor", BAD_REQUEST, "The cursor does not belong to this listing";
    /// `Host` is not allowed.
    HostRefused = "host_refused", FORBIDDEN, "This host name is not served";
    /// A browser sent it from another site.
    OriginRefused = "origin_refused", FORBIDDEN, "Requests from this origin are refused";
    /// No such route.
    NoRoute = "no_route", NOT_FOUND, "There is no such route";
    /// No such event, subscription, dead letter or component.
    NotFound = "not_found", NOT_FOUND, "There is no such thing";
    /// The route exists, the method does not.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The route does not take this method";
    /// The client sent its body too slowly.
    TooSlow = "too_slow", REQUEST_TIMEOUT, "The request body took too long";
    /// It exists and differs, or its state forbids the change.
    Conflict = "conflict", CONFLICT, "It conflicts with what is there";
    /// Several events have this id.
    Ambiguous = "ambiguous", CONFLICT, "More than one event has this id";
    /// Retention passed the cursor.
    Gone = "gone", GONE, "It is no longer kept";
    /// Body, batch, event or value above a limit.
    TooLarge = "too_large", PAYLOAD_TOO_LARGE, "It is above a limit";
    /// No such media type here.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "This media type is not taken here";
    /// A value breaks a rule; `errors` names every one.
    Invalid = "invalid", UNPROCESSABLE_ENTITY, "The request breaks a rule";
    /// Every event of the batch was refused.
    NothingStored = "nothing_stored", UNPROCESSABLE_ENTITY, "No event of the batch was stored";
    /// A queue is full or too many do the same.
    Busy = "busy", TOO_MANY_REQUESTS, "Too much at once";
    /// A defect of ours.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Something is wrong with the server";
    /// A read or write failed, or stored data do not verify.
    Storage = "storage", INTERNAL_SERVER_ERROR, "The storage failed";
    /// The backend does not offer it.
    Unsupported = "unsupported", NOT_IMPLEMENTED, "The backend does not offer this";
    /// The server is shutting down.
    Draining = "draining", SERVICE_UNAVAILABLE, "The server is shutting down";
    /// The backend cannot be reached or was too slow.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "The backend cannot be reached";
    /// It may have been stored; publishing the same event again is safe.
    OutcomeUnknown = "outcome_unknown", SERVICE_UNAVAILABLE, "The outcome is not known";
    /// The stream or the disk is full.
    Full = "full", INSUFFICIENT_STORAGE, "There is no room left";
}

/// One problem on its way to the client.
#[derive(Debug)]
pub(crate) struct Problem {
    code: Code,
    detail: String,
    errors: Vec<Violation>,
    extra: Option<(&'static str, Box<RawValue>)>,
}

/// The prefix of every `type`; the code follows.
pub(crate) const TYPE_PREFIX: &str = "urn:fanfare:problem:";

/// How long a client should wait after 429 and 503, in seconds.
const RETRY_AFTER_SECONDS: &str = "1";

impl Problem {
    /// A problem with a sentence about this case.
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            extra: None,
        }
    }

    /// A problem that names every violation.
    pub(crate) fn violating(code: Code, errors: Vec<Violation>) -> Self {
        let detail = match errors.as_slice() {
            [one] => one.detail.clone(),
            many => format!("{} rules are broken", many.len()),
        };
        Self {
            errors,
            ..Self::new(code, detail)
        }
    }

    /// Adds an extension member.
    pub(crate) fn with(mut self, name: &'static str, value: Box<RawValue>) -> Self {
        self.extra = Some((name, value));
        self
    }

    pub(crate) fn code(&self) -> Code {
        self.code
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let code = self.code.as_str();
        let mut members = serializer.serialize_map(None)?;
        members.serialize_entry("type", &format!("{TYPE_PREFIX}{code}"))?;
        members.serialize_entry("title", self.code.title())?;
        members.serialize_entry("status", &self.code.status().as_u16())?;
        members.serialize_entry("detail", &self.detail)?;
        members.serialize_entry("code", code)?;
        members.serialize_entry("errors", &self.errors)?;
        if let Some((name, value)) = &self.extra {
            members.serialize_entry(name, value)?;
        }
        members.end()
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let code = match error.kind() {
            ErrorKind::Invalid => {
                return Self::violating(Code::Invalid, error.violations().to_vec());
            }
            ErrorKind::TooLarge => Code::TooLarge,
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::Conflict | ErrorKind::Late => Code::Conflict,
            ErrorKind::Full => Code::Full,
            ErrorKind::Unknown => Code::OutcomeUnknown,
            ErrorKind::Unavailable
            | ErrorKind::Timeout
            | ErrorKind::Locked
            | ErrorKind::Unauthorized
            | ErrorKind::Forbidden => Code::Unavailable,
            ErrorKind::Closed => Code::Draining,
            ErrorKind::Unsupported => Code::Unsupported,
            ErrorKind::Corrupt | ErrorKind::Storage => Code::Storage,
            ErrorKind::Gone => Code::Gone,
            _ => Code::Internal,
        };
        match code {
            Code::Internal | Code::Storage => {
                tracing::error!(code = code.as_str(), %error, "request failed");
            }
            Code::Unavailable | Code::OutcomeUnknown | Code::Full => {
                tracing::warn!(code = code.as_str(), %error, "request failed");
            }
            _ => {}
        }
        // The cause may quote addresses or credentials: it is logged, the message alone is sent.
        Self {
            errors: error.violations().to_vec(),
            ..Self::new(code, error.message())
        }
    }
}

impl From<serde_json::Error> for Problem {
    /// Writing into memory cannot fail; a value that refuses to be JSON is a defect of ours.
    fn from(error: serde_json::Error) -> Self {
        tracing::error!(%error, "an answer could not be written");
        Self::new(Code::Internal, "the answer could not be written")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // Every member is text or a number: writing cannot fail.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (self.code.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if matches!(
            self.code.status(),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ) {
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from_static(RETRY_AFTER_SECONDS),
            );
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_in_the_documented_table() {
        let page = include_str!("../../../../docs/spec/http-api.md");
        for code in Code::ALL {
            let row = format!(
                "| `{}` | {} | {} |",
                code.as_str(),
                code.status().as_u16(),
                code.title()
            );
            assert!(page.contains(&row), "docs/spec/http-api.md lacks {row}");
        }
    }

    #[test]
    fn codes_are_unique() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
    }

    #[test]
    fn every_kind_of_error_has_its_status() {
        for (kind, code, status) in [
            (ErrorKind::Invalid, "invalid", 422),
            (ErrorKind::TooLarge, "too_large", 413),
            (ErrorKind::NotFound, "not_found", 404),
            (ErrorKind::Conflict, "conflict", 409),
            (ErrorKind::Full, "full", 507),
            (ErrorKind::Unknown, "outcome_unknown", 503),
            (ErrorKind::Unavailable, "unavailable", 503),
            (ErrorKind::Timeout, "unavailable", 503),
            (ErrorKind::Late, "conflict", 409),
            (ErrorKind::Closed, "draining", 503),
            (ErrorKind::Unsupported, "unsupported", 501),
            (ErrorKind::Unauthorized, "unavailable", 503),
            (ErrorKind::Forbidden, "unavailable", 503),
            (ErrorKind::Locked, "unavailable", 503),
            (ErrorKind::Corrupt, "storage", 500),
            (ErrorKind::Storage, "storage", 500),
            (ErrorKind::Handler, "internal", 500),
            (ErrorKind::Gone, "gone", 410),
            (ErrorKind::Internal, "internal", 500),
        ] {
            let problem = Problem::from(Error::new(kind, "it failed"));
            assert_eq!(problem.code().as_str(), code, "{kind:?}");
            let response = problem.into_response();
            assert_eq!(response.status().as_u16(), status, "{kind:?}");
            let waits = response.headers().contains_key("retry-after");
            assert_eq!(waits, status == 503, "{kind:?}");
        }
    }

    #[test]
    fn a_cause_is_never_sent() {
        let error = Error::new(ErrorKind::Storage, "the write failed")
            .because(std::io::Error::other("redis://:hunter2@host"));
        let body = serde_json::to_string(&Problem::from(error)).unwrap();
        assert!(!body.contains("hunter2"), "{body}");
    }
}
