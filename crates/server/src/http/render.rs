//! Writing answers. Events are appended as CloudEvents JSON with their data bytes untouched, which
//! no generic serialiser would keep; all else is serde.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fanfare::core::cloudevents;
use fanfare::core::event::Event;
use serde::Serialize;

use crate::http::problem::Problem;

/// A JSON answer.
pub(crate) fn answer(status: StatusCode, body: &impl Serialize) -> Result<Response, Problem> {
    Ok(json(status, serde_json::to_vec(body)?))
}

/// `{"<name>":..}`.
pub(crate) fn wrapped(name: &str, value: &impl Serialize) -> Result<Response, Problem> {
    let mut out = format!(r#"{{"{name}":"#).into_bytes();
    serde_json::to_writer(&mut out, value)?;
    out.push(b'}');
    Ok(json(StatusCode::OK, out))
}

/// A JSON answer that is written already.
pub(crate) fn json(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = (status, body.into()).into_response();
    let media_type = HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    response
}

/// Appends an object with `members`, and the member `event` last.
pub(crate) fn with_event(
    out: &mut Vec<u8>,
    members: &impl Serialize,
    event: Option<&Event>,
) -> Result<(), Problem> {
    serde_json::to_writer(&mut *out, members)?;
    // Opens the object again: it has members, so a comma goes before the next.
    out.pop();
    out.extend_from_slice(br#","event":"#);
    match event {
        Some(event) => cloudevents::write_json(event, out),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    Ok(())
}

/// `{"<name>":[..]}` and what follows, as it grows up to a size.
pub(crate) struct List {
    out: Vec<u8>,
    most: usize,
    empty: bool,
}

impl List {
    /// An empty list that is full once it takes `most` bytes.
    pub(crate) fn new(name: &str, most: usize) -> Self {
        Self {
            out: format!(r#"{{"{name}":["#).into_bytes(),
            most,
            empty: true,
        }
    }

    /// Appends an item; answers whether there is room for another.
    pub(crate) fn push(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Problem>,
    ) -> Result<bool, Problem> {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
        write(&mut self.out)?;
        Ok(self.out.len() < self.most)
    }

    /// The whole object.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.out.extend_from_slice(b"]}");
        self.out
    }

    /// The whole answer, with the cursor of the next page.
    pub(crate) fn page(mut self, next: Option<&str>) -> Result<Response, Problem> {
        self.out.extend_from_slice(br#"],"next":"#);
        serde_json::to_writer(&mut self.out, &next)?;
        self.out.push(b'}');
        Ok(json(StatusCode::OK, self.out))
    }
}
