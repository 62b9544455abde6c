//! The HTTP side. A command answers 202 once its event is as safe as the backend makes it; what the
//! handlers make of it is there a moment later.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use fanfare::bus::{DomainEvent, RedriveOptions};
use fanfare::core::cloudevents;
use fanfare::core::dead_letter::{Acted, DeadBody, DeadLetter, DeadLetterFilter, Selection};
use fanfare::core::id::EventId;
use fanfare::core::{Error, ErrorKind};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::events::{self, Caller, ChatCreated, MessagePosted, StatusChanged, UserAssigned};
use crate::handlers::notification::{self, Notification};
use crate::handlers::projection::{self, Chat};
use crate::handlers::tags;
use crate::{App, Result};

/// Dead letters shown where nobody says how many.
const LETTERS: usize = 20;

/// Every route.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/chats/{chat}", put(create).get(look))
        .route("/chats/{chat}/messages", post(say))
        .route("/chats/{chat}/assignee", put(assign))
        .route("/chats/{chat}/status", put(change_status))
        .route("/users/{user}/notifications", get(notifications))
        .route("/tags/{tag}", get(tagged))
        .route("/dead-letters", get(dead_letters))
        .route("/dead-letters/redrive", post(redrive))
        .route("/health", get(health))
        .with_state(app)
}

type Accepted = Result<(StatusCode, Json<Value>), Refused>;

async fn create(
    State(app): State<App>,
    Path(chat): Path<String>,
    asking: Asking,
    Json(change): Json<ChatCreated>,
) -> Accepted {
    // A chat is created once: whoever asks again asks for the same event.
    let id = EventId::derived(&["ChatCreated", &chat]);
    publish(&app, asking, &chat, &change, Some(id)).await
}

async fn say(
    State(app): State<App>,
    Path(chat): Path<String>,
    asking: Asking,
    Json(change): Json<MessagePosted>,
) -> Accepted {
    publish(&app, asking, &chat, &change, None).await
}

async fn assign(
    State(app): State<App>,
    Path(chat): Path<String>,
    asking: Asking,
    Json(change): Json<UserAssigned>,
) -> Accepted {
    publish(&app, asking, &chat, &change, None).await
}

async fn change_status(
    State(app): State<App>,
    Path(chat): Path<String>,
    asking: Asking,
    Json(change): Json<StatusChanged>,
) -> Accepted {
    publish(&app, asking, &chat, &change, None).await
}

async fn publish(
    app: &App,
    asking: Asking,
    chat: &str,
    change: &impl DomainEvent,
    id: Option<EventId>,
) -> Accepted {
    let id = id.or(asking.id).unwrap_or_else(EventId::generate);
    let now = app.bus.clock().now();
    let event = events::asked_by(asking.caller, chat, change, now)?;
    app.bus.publish(event.id(id.clone())).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "event": id }))))
}

async fn look(State(app): State<App>, Path(chat): Path<String>) -> Result<Json<Chat>, Refused> {
    let there = projection::chat(&app.store, &chat)?;
    there.map(Json).ok_or_else(|| Refused {
        status: StatusCode::NOT_FOUND,
        why: format!("there is no chat `{chat}`, or not yet"),
    })
}

async fn notifications(
    State(app): State<App>,
    Path(user): Path<String>,
) -> Result<Json<Vec<Notification>>, Refused> {
    Ok(Json(notification::of_user(&app.store, &user)?))
}

async fn tagged(
    State(app): State<App>,
    Path(tag): Path<String>,
) -> Result<Json<Vec<String>>, Refused> {
    Ok(Json(tags::chats(&app.store, &tag)?))
}

#[derive(Deserialize)]
struct Page {
    limit: Option<usize>,
}

/// The newest first.
async fn dead_letters(
    State(app): State<App>,
    Query(page): Query<Page>,
) -> Result<Json<Vec<Value>>, Refused> {
    let limit = page.limit.unwrap_or(LETTERS);
    let any = DeadLetterFilter::default();
    let letters = app.bus.newest_dead_letters(&any, limit).await?;
    Ok(Json(letters.iter().map(shown).collect()))
}

fn shown(letter: &DeadLetter) -> Value {
    let event: Option<Value> = match &letter.body {
        DeadBody::Event(event) => serde_json::from_slice(&cloudevents::to_json(event)).ok(),
        DeadBody::Raw(bytes) => Some(String::from_utf8_lossy(bytes).into()),
    };
    json!({
        "id": letter.id,
        "handler": letter.subscription,
        "event": event,
        "error": letter.error,
        "attempts": letter.attempts,
        "timestamp": letter.last_failure,
    })
}

#[derive(Deserialize)]
struct Which {
    id: Option<String>,
}

/// Gives one letter back to its handler, or all of them.
async fn redrive(
    State(app): State<App>,
    Query(which): Query<Which>,
) -> Result<Json<Acted>, Refused> {
    let selection = match which.id {
        Some(id) => Selection::Ids(vec![id]),
        None => Selection::Filter(DeadLetterFilter::default()),
    };
    let options = RedriveOptions::default();
    Ok(Json(app.bus.redrive(selection, options).await?))
}

async fn health(State(app): State<App>) -> Response {
    let health = app.bus.health().await;
    let status = if health.ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(health)).into_response()
}

/// Who sent a command, and the id of its event where the sender wants to be able to send it again.
struct Asking {
    caller: Caller,
    id: Option<EventId>,
}

impl<S: Sync> FromRequestParts<S> for Asking {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refused> {
        let header = |name: &str| Some(parts.headers.get(name)?.to_str().ok()?.to_owned());
        let user = header("x-user").ok_or_else(|| Refused {
            status: StatusCode::UNAUTHORIZED,
            why: "say who you are: `X-User: ada` (a real program has a login)".into(),
        })?;
        let key = header("idempotency-key");
        let address = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        Ok(Self {
            id: key.map(|key| EventId::derived(&["command", &user, &key])),
            caller: Caller {
                user,
                address: address.map(|address| address.ip()),
                agent: header(header::USER_AGENT.as_str()),
            },
        })
    }
}

/// An answer that is not what was asked for.
struct Refused {
    status: StatusCode,
    why: String,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            // Sending the command again may help, and with an Idempotency-Key it harms nobody.
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let why = error.to_string();
        Self { status, why }
    }
}

impl From<Box<dyn std::error::Error + Send + Sync>> for Refused {
    fn from(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        tracing::error!(%error, "a request failed");
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            why: "something is wrong here, see the log".into(),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.why }))).into_response()
    }
}
