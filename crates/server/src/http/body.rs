//! Reading request bodies within their limits: size, and how long a client may pause.

use std::ops::Deref;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use fanfare::core::error::Error;
use fanfare::core::timestamp::duration;
use futures::StreamExt;
use tokio::sync::OwnedSemaphorePermit;

use crate::app::App;
use crate::http::object::{self, Object};
use crate::http::problem::{Code, Problem};

/// How large a body may be; a JSON array may be as large as a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Size {
    One,
    Batch,
    BatchIfArray,
}

/// A body, and its share of the memory that all bodies may take.
#[derive(Debug)]
pub(crate) struct Whole {
    bytes: BytesMut,
    share: Option<OwnedSemaphorePermit>,
}

impl Whole {
    /// Appends what arrived, if there is memory for it.
    fn append(&mut self, app: &App, chunk: &[u8]) -> Result<(), Problem> {
        let more = app.body_memory(chunk.len())?;
        match &mut self.share {
            Some(share) => share.merge(more),
            share => *share = Some(more),
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }
}

impl Deref for Whole {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a whole body.
pub(crate) async fn read(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    size: Size,
) -> Result<Whole, Problem> {
    let limits = &app.config().limits;
    let most = match size {
        Size::One => limits.body_bytes,
        Size::Batch | Size::BatchIfArray => limits.batch_bytes,
    };
    if text(headers, header::CONTENT_ENCODING.as_str())?.is_some_and(|e| e != "identity") {
        let detail = "bodies are taken as they are, without a content encoding";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    let mut stream = body.into_data_stream();
    let mut whole = Whole {
        bytes: BytesMut::new(),
        share: None,
    };
    while let Some(chunk) = next(&mut stream, limits.body_idle).await? {
        whole.append(app, &chunk)?;
        let single = matches!(size, Size::BatchIfArray) && !is_array(&whole);
        let most = if single { limits.body_bytes } else { most };
        if whole.len() > most {
            let detail = format!("the body is larger than {most} bytes");
            return Err(Problem::new(Code::TooLarge, detail));
        }
    }
    Ok(whole)
}

async fn next(stream: &mut BodyDataStream, idle: Duration) -> Result<Option<Bytes>, Problem> {
    let Ok(chunk) = tokio::time::timeout(idle, stream.next()).await else {
        let idle = duration::format(idle);
        let detail = format!("nothing of the body arrived for {idle}");
        return Err(Problem::new(Code::TooSlow, detail));
    };
    chunk
        .transpose()
        .map_err(|error| Problem::new(Code::Malformed, format!("the body ended early: {error}")))
}

/// Whether the JSON text is an array, as far as it was read.
pub(crate) fn is_array(json: &[u8]) -> bool {
    json.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[')
}

/// The value of a header as text, if it stands there once.
pub(crate) fn text<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        let detail = format!("the header {name} is given more than once");
        return Err(Problem::new(Code::Malformed, detail));
    }
    let text = value.to_str().map_err(|_| {
        Problem::new(
            Code::Malformed,
            format!("the header {name} is not visible ASCII"),
        )
    })?;
    Ok(Some(text))
}

/// The body of an operation: one JSON object. Nothing at all stands for `{}`.
#[derive(Debug)]
pub(crate) struct JsonBody(Whole);

impl JsonBody {
    pub(crate) fn object(&self) -> Result<Object<'_>, Problem> {
        Object::parse(if self.0.is_empty() { b"{}" } else { &self.0 })
    }
}

impl FromRequest<App> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let media_type = text(&parts.headers, header::CONTENT_TYPE.as_str())?.map(str::to_owned);
        let bytes = read(app, &parts.headers, body, Size::One).await?;
        // Only JSON is taken, so that a form on a foreign page cannot send it.
        match media_type {
            Some(media_type) if is_json(&media_type) => {}
            None if bytes.is_empty() => {}
            given => {
                let given = given.as_deref().unwrap_or("nothing");
                let detail = format!("the content type must be application/json, not {given}");
                return Err(Problem::new(Code::UnsupportedMediaType, detail));
            }
        }
        Ok(Self(bytes))
    }
}

fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Checks that a body is JSON before a codec says what is wrong with the event in it; `around` is
/// how deep the data stand in the body.
pub(crate) fn check_json(body: &[u8], around: usize) -> Result<(), Problem> {
    object::check_depth(body, object::MAX_DEPTH + around)?;
    object::json(body).map(|_| ())
}

/// How many items a JSON array has; 422 when the text is something else.
pub(crate) fn count_items(body: &[u8]) -> Result<usize, Problem> {
    serde_json::from_slice::<Vec<serde::de::IgnoredAny>>(body)
        .map(|items| items.len())
        .map_err(|_| Error::invalid("", "a batch is a JSON array of events").into())
}
