//! `POST /v1/events`: publishing one event or a batch, as CloudEvents (structured, binary, batch)
//! or in the plain form. It answers after the durable acknowledgement.

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
use crate::http::problem::{Code, Problem};
use crate::http::render;
use crate::http::route::Route;

/// The longest `Idempotency-Key`, in bytes.
const MAX_KEY_BYTES: usize = 255;

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
    let key = idempotency_key(&headers)?;
    let size = match mode {
        Mode::Batch => Size::Batch,
        Mode::Plain => Size::BatchIfArray,
        Mode::Structured | Mode::Binary => Size::One,
    };
    let body = body::read(&app, &headers, body, size).await?;
    let _slot = app.slot(Slot::Publishing)?;
    match mode {
        Mode::Structured => {
            body::check_json(&body, 1)?;
            publish_one(&app, cloudevents::from_json(&body)?).await
        }
        Mode::Binary => publish_one(&app, from_binary(&headers, &body, key.as_deref())?).await,
        Mode::Plain if !body::is_array(&body) => {
            body::check_json(&body, 1)?;
            let builder = cloudevents::from_plain_json(&body)?;
            publish_one(&app, fill_in(&app, builder, key.as_deref(), 0)?).await
        }
        Mode::Plain => {
            check_batch(&app, &body)?;
            let read = cloudevents::from_plain_json_batch(&body)?;
            let filled = read.into_iter().enumerate().map(|(index, builder)| {
                builder.and_then(|builder| fill_in(&app, builder, key.as_deref(), index))
            });
            publish_batch(&app, filled.collect()).await
        }
        Mode::Batch => {
            check_batch(&app, &body)?;
            publish_batch(&app, cloudevents::from_json_batch(&body)?).await
        }
    }
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

/// Gives a plain event its id and source.
fn fill_in(
    app: &App,
    mut builder: EventBuilder,
    key: Option<&str>,
    index: usize,
) -> Result<Event, Error> {
    if let Some(key) = key
        && !builder.has_id()
    {
        builder = builder.id(id_from_key(key, index));
    }
    if !builder.has_source() {
        builder = builder.source(app.config().source.as_str());
    }
    let event = builder.build()?;
    if event.time().is_some() {
        return Ok(event);
    }
    event.to_builder().time(app.clock().now()).build()
}

fn from_binary(headers: &HeaderMap, body: &[u8], key: Option<&str>) -> Result<Event, Problem> {
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
            HeaderValue::from_str(&id_from_key(key, 0).to_string()).ok()
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

/// The key without the quotes that its draft standard asks for.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(text) = body::text(headers, "idempotency-key")? else {
        return Ok(None);
    };
    let key = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(text);
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        let detail = format!("Idempotency-Key must be 1 to {MAX_KEY_BYTES} characters long");
        return Err(Problem::new(Code::Malformed, detail));
    }
    Ok(Some(key.to_owned()))
}

/// The same for the same key and place in the batch, so that a repeat meets duplicate detection.
fn id_from_key(key: &str, index: usize) -> EventId {
    EventId::derived(&["idempotency-key", key, &index.to_string()])
}
