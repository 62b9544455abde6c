//! The server's HTTP API as the commands use it: requests, answers, and problems as one-line
//! failures. What an answer means is known by the command that asked.

use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take; an audit reads the whole log.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(5);
/// How long a stream may be silent: the server sends a comment every 15 s.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(45);

/// A server, and the connections to it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    base: Url,
    http: reqwest::Client,
}

/// An answer that is not 2xx, as RFC 9457 has it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: String,
    detail: String,
    errors: Vec<Violation>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Violation {
    pointer: String,
    detail: String,
}

/// Why a request that may be repeated got no answer to use.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// What to tell when it is not repeated.
    pub(crate) failure: Failure,
    /// Whether the same request may work later.
    pub(crate) temporary: bool,
    /// Whether what was sent is at fault.
    pub(crate) about_content: bool,
    /// Whether the server may have acted on the request.
    pub(crate) outcome_unknown: bool,
    /// How long the server asks to wait first.
    pub(crate) wait: Option<Duration>,
}

impl Client {
    /// A client of the server at `server`; connects with the first request.
    pub(crate) fn new(server: &str) -> Result<Self> {
        let base = Url::parse(server).map_err(|error| {
            Failure::usage(format!(
                "--server `{server}` is not a URL such as http://127.0.0.1:8787: {error}"
            ))
        })?;
        if base.scheme() != "http" || base.cannot_be_a_base() {
            return Err(Failure::usage(format!(
                "--server `{server}`: only http:// is spoken"
            )));
        }
        let loopback = matches!(base.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("fanfare/", env!("CARGO_PKG_VERSION")));
        if loopback {
            http = http.no_proxy();
        }
        let http = http
            .build()
            .map_err(|error| Failure::failed(format!("cannot make an HTTP client: {error}")))?;
        Ok(Self { base, http })
    }

    /// The server, for people.
    pub(crate) fn server(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// GET and read the JSON answer.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<T> {
        let request = self.request(Method::GET, path).query(query);
        self.answer(request).await
    }

    /// Send `body` as JSON and read the JSON answer.
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T> {
        self.answer(self.request(method, path).json(body)).await
    }

    /// DELETE.
    pub(crate) async fn delete(&self, path: &[&str], query: &[(&str, String)]) -> Result<()> {
        let request = self.request(Method::DELETE, path).query(query);
        self.attempt(request)
            .await
            .map(drop)
            .map_err(|refusal| refusal.failure)
    }

    /// POST `body` of a media type; repeating it is the caller's decision.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        media_type: &str,
        body: Vec<u8>,
    ) -> Result<T, Refusal> {
        let request = self
            .request(Method::POST, path)
            .header(CONTENT_TYPE, media_type)
            .body(body);
        let response = self.attempt(request).await?;
        response.json().await.map_err(|error| self.lost(&error))
    }

    /// Opens a stream of server-sent events.
    pub(crate) async fn stream(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        last_event_id: Option<&str>,
    ) -> Result<Response, Refusal> {
        let mut request = self
            .http
            .get(self.url(path))
            .query(query)
            .header(ACCEPT, "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header(HeaderName::from_static("last-event-id"), id);
        }
        self.attempt(request).await
    }

    /// The next piece of a stream; none when it ended, a failure when it was silent for too long.
    pub(crate) async fn chunk(&self, response: &mut Response) -> Result<Option<bytes::Bytes>> {
        match tokio::time::timeout(SILENCE_TIMEOUT, response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(self.lost(&error).failure),
            Err(_) => Err(Failure::unreachable(format!(
                "{} has been silent for {} s",
                self.server(),
                SILENCE_TIMEOUT.as_secs()
            ))),
        }
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.http
            .request(method, self.url(path))
            .timeout(ANSWER_TIMEOUT)
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let response = self
            .attempt(request)
            .await
            .map_err(|refusal| refusal.failure)?;
        let body = response
            .bytes()
            .await
            .map_err(|error| self.lost(&error).failure)?;
        serde_json::from_slice(&body).map_err(|error| {
            Failure::failed(format!(
                "{} answered what this command does not understand: {error}",
                self.server()
            ))
        })
    }

    async fn attempt(&self, request: RequestBuilder) -> Result<Response, Refusal> {
        let response = request.send().await.map_err(|error| self.lost(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let wait = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|seconds| seconds.parse().ok())
            .map(Duration::from_secs);
        let body = response.bytes().await.unwrap_or_default();
        Err(Refusal {
            failure: Failure::failed(describe(status, &body)),
            temporary: matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504),
            about_content: matches!(status.as_u16(), 400 | 413 | 422),
            outcome_unknown: matches!(status.as_u16(), 502 | 504),
            wait,
        })
    }

    fn lost(&self, error: &reqwest::Error) -> Refusal {
        let what = if error.is_connect() {
            "cannot be reached; is `fanfare serve` running there?"
        } else if error.is_timeout() {
            "did not answer in time"
        } else {
            "closed the connection"
        };
        let cause = root_cause(error);
        Refusal {
            failure: Failure::unreachable(format!("{} {what} ({cause})", self.server())),
            temporary: true,
            about_content: false,
            outcome_unknown: !error.is_connect(),
            wait: None,
        }
    }
}

/// A problem as one line that names every violation.
fn describe(status: StatusCode, body: &[u8]) -> String {
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    let mut text = match (problem.title.as_str(), problem.detail.as_str()) {
        ("", "") => format!("the server answered {status}"),
        ("", detail) => detail.to_owned(),
        (title, "") => title.to_owned(),
        (_, detail) => detail.to_owned(),
    };
    for violation in &problem.errors {
        if text.contains(&violation.detail) {
            continue;
        }
        text.push_str("; ");
        if !violation.pointer.is_empty() {
            text.push_str(&violation.pointer);
            text.push_str(": ");
        }
        text.push_str(&violation.detail);
    }
    text
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_becomes_one_line_with_every_violation() {
        let body = br#"{"title":"Invalid event","detail":"the event breaks 2 rules",
            "errors":[{"pointer":"/type","detail":"type is empty"},{"detail":"no id"}]}"#;
        assert_eq!(
            describe(StatusCode::UNPROCESSABLE_ENTITY, body),
            "the event breaks 2 rules; /type: type is empty; no id"
        );
        assert_eq!(
            describe(StatusCode::BAD_GATEWAY, b"<html>"),
            "the server answered 502 Bad Gateway"
        );
    }

    #[test]
    fn ids_are_escaped_in_paths_and_a_prefix_is_kept() {
        let client = Client::new("http://127.0.0.1:1/fan/").unwrap();
        assert_eq!(
            client.url(&["v1", "events", "a/b ü?"]).as_str(),
            "http://127.0.0.1:1/fan/v1/events/a%2Fb%20%C3%BC%3F"
        );
        assert!(Client::new("https://x").is_err());
        assert!(Client::new("localhost:8787").is_err());
    }
}
