//! `POST /v1/events`: publishing one event or a batch, as CloudEvents (structured, binary, batch)
//! or in the plain form. It answers after the durable acknowledgement.

use std::borrow::Cow;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fanfare::core::backend::Published;
use fanfare::core::cloudevents::http::Mode;
use fanfare::core::cloudevents::{self, http as binding};
use fanfare::core::error::{Error, ErrorKind};
use fanfare::core::event::{Event, EventBuilder};
use fanfare::core::id::EventId;
use fanfare::core::position::Position;
use serde::Serialize;

use crate::app::{App, Slot};
use crate::http::body::{self, Size};
use crate::http::idempotency::Key;
use crate::http::problem::{Code, Problem};
use crate::http::render;
use crate::http::route::Route;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/events", publish)
            .about("Publish one event or a batch")
            .header(
                "Idempotency-Key",
                "becomes the id of an event that has none, so that a repeat is a duplicate",
            )
            .body("PlainEvents")
            .body_as("application/cloudevents+json", Some("CloudEvent"))
            .body_as("application/cloudevents-batch+json", Some("CloudEvents"))
            .body_as("*/*", None)
            .answer(
                200,
                "A duplicate; nothing was stored. Or a batch",
                "PublishedAny",
            )
            .answer(201, "Stored durably", "Published")
            .problems(&[Code::Conflict, Code::Busy, Code::OutcomeUnknown, Code::Full]),
    ]
}

/// What became of one event of a batch.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome {
    Stored(Receipt),
    Refused { error: Problem },
}

/// One event that was acknowledged.
#[derive(Debug, Serialize)]
struct Receipt {
    id: EventId,
    position: Option<Position>,
    duplicate: bool,
}

impl Receipt {
    fn new(event: &Event, published: Published) -> Self {
        Self {
            id: event.id().clone(),
            position: published.position,
            duplicate: published.duplicate,
        }
    }
}

async fn publish(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let headers = parts.headers;
    let content_type = body::text(&headers, header::CONTENT_TYPE.as_str())?;
    let has_attributes = headers
        .keys()
        .any(|name| binding::is_attribute(name.as_str()));
    let mode = Mode::of(content_type, has_attributes)
        .map_err(|error| Problem::new(Code::UnsupportedMediaType, error.message()))?;
    let key = Key::of(&headers)?;
    let size = match mode {
        Mode::Batch => Size::Batch,
        Mode::Plain => Size::BatchIfArray,
        Mode::Structured | Mode::Binary => Size::One,
    };
    let body = body::read(&app, &headers, body, size).await?;
    let _slot = app.slot(Slot::Publishing)?;
    match mode {
        Mode::Binary => publish_one(&app, from_binary(&headers, &body, key.as_ref())?).await,
        Mode::Structured => {
            body::check_json(&body, 1)?;
            let event = cloudevents::from_json(&with_ids(&body, key.as_ref()))?;
            publish_one(&app, event).await
        }
        Mode::Plain if !body::is_array(&body) => {
            body::check_json(&body, 1)?;
            let event = cloudevents::from_plain_json(&with_ids(&body, key.as_ref()))?;
            publish_one(&app, complete(&app, event)?).await
        }
        Mode::Plain => {
            check_batch(&app, &body)?;
            let events = cloudevents::from_plain_json_batch(&with_ids(&body, key.as_ref()))?;
            let events = events.into_iter();
            let events = events.map(|event| event.and_then(|event| complete(&app, event)));
            publish_batch(&app, events.collect()).await
        }
        Mode::Batch => {
            check_batch(&app, &body)?;
            let events = cloudevents::from_json_batch(&with_ids(&body, key.as_ref()))?;
            publish_batch(&app, events).await
        }
    }
}

fn with_ids<'b>(body: &'b [u8], key: Option<&Key>) -> Cow<'b, [u8]> {
    key.map_or(Cow::Borrowed(body), |key| key.fill_in(body))
}

async fn publish_one(app: &App, event: Event) -> Result<Response, Problem> {
    let outcome = app.bus().publish_all(vec![event.clone()]).await?;
    let published = outcome
        .into_iter()
        .next()
        .unwrap_or_else(|| Err(unanswered()))?;
    let status = if published.duplicate {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    render::answer(status, &Receipt::new(&event, published))
}

/// Publishes what could be read; the answer has one result per event, in order.
async fn publish_batch(app: &App, read: Vec<Result<Event, Error>>) -> Result<Response, Problem> {
    let events: Vec<Event> = read
        .iter()
        .filter_map(|r| r.as_ref().ok().cloned())
        .collect();
    let mut outcomes = if events.is_empty() {
        Vec::new().into_iter()
    } else {
        app.bus().publish_all(events).await?.into_iter()
    };
    let (mut results, mut stored, mut worst) = (Vec::with_capacity(read.len()), 0, None);
    for event in read {
        let published = event.and_then(|event| {
            let published = outcomes.next().unwrap_or_else(|| Err(unanswered()))?;
            Ok(Receipt::new(&event, published))
        });
        results.push(match published {
            Ok(receipt) => {
                stored += 1;
                Outcome::Stored(receipt)
            }
            Err(error) => {
                let error = Problem::from(error);
                // What may pass by itself weighs more than what the client must mend.
                if error.code().status().is_server_error() {
                    worst = Some(error.code());
                }
                Outcome::Refused { error }
            }
        });
    }
    if stored > 0 || results.is_empty() {
        return render::wrapped("results", &results);
    }
    let code = worst.unwrap_or(Code::NothingStored);
    let detail = "no event of the batch was stored; `results` says why, event by event";
    let results = serde_json::value::to_raw_value(&results)?;
    Ok(Problem::new(code, detail)
        .with("results", results)
        .into_response())
}

fn unanswered() -> Error {
    Error::new(
        ErrorKind::Unknown,
        "the backend did not answer for this event",
    )
}

/// Gives a plain event the source and time that it lacks.
fn complete(app: &App, mut builder: EventBuilder) -> Result<Event, Error> {
    if !builder.has_source() {
        builder = builder.source(app.config().source.as_str());
    }
    let event = builder.build()?;
    if event.time().is_some() {
        return Ok(event);
    }
    event.to_builder().time(app.clock().now()).build()
}

fn from_binary(headers: &HeaderMap, body: &[u8], key: Option<&Key>) -> Result<Event, Problem> {
    if headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(cloudevents::media_type::is_json)
        && !body.is_empty()
    {
        body::check_json(body, 0)?;
    }
    let id = HeaderName::from_static("ce-id");
    let made = match key {
        Some(key) if !headers.contains_key(&id) => {
            HeaderValue::from_str(&key.id(0).to_string()).ok()
        }
        _ => None,
    };
    let pairs = headers
        .iter()
        .chain(made.as_ref().map(|value| (&id, value)))
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    Ok(binding::from_binary(pairs, body)?)
}

fn check_batch(app: &App, body: &[u8]) -> Result<(), Problem> {
    body::check_json(body, 2)?;
    let most = app.config().limits.batch_events;
    let given = body::count_items(body)?;
    if given > most {
        let detail = format!("the batch holds {given} events, at most {most} are taken");
        return Err(Problem::new(Code::TooLarge, detail));
    }
    Ok(())
}
