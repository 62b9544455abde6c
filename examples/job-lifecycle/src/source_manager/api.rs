//! `/api/v1/sources`.

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::publisher::Publisher;
use super::sources::{Source, Sources};
use crate::events::{Members, SourceDetails, Toggle, ToggledBy};
use crate::http::Refusal;

/// The most bytes of a request.
const BODY_BYTES: usize = 64 << 10;
/// The most sources in one answer.
const LIST: i64 = 1_000;

/// The routes.
pub fn router(sources: Sources, publisher: Publisher) -> Router {
    let one = get(read).put(update).delete(delete);
    Router::new()
        .route("/api/v1/sources", get(list).post(create))
        .route("/api/v1/sources/{id}", one)
        .route("/api/v1/sources/{id}/enable", post(enable))
        .route("/api/v1/sources/{id}/disable", post(disable))
        .with_state(sources)
        .route("/metrics", get(metrics))
        .with_state(publisher)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
}

/// One page of sources.
#[derive(Debug, Serialize, Deserialize)]
pub struct Page {
    /// In the order in which they were made.
    pub sources: Vec<Source>,
    /// Where the next page begins, as its `after`; none where this is the last.
    pub next: Option<Uuid>,
}

#[derive(Deserialize)]
struct Listing {
    after: Option<Uuid>,
    limit: Option<i64>,
}

async fn list(State(sources): State<Sources>, Query(wanted): Query<Listing>) -> Answer<Page> {
    let limit = wanted.limit.unwrap_or(LIST).clamp(1, LIST);
    let mut page = sources.list(wanted.after, limit + 1).await?;
    let more = page.len() > usize::try_from(limit)?;
    if more {
        page.pop();
    }
    let next = page.last().filter(|_| more).map(|source| source.id);
    Ok(Json(Page {
        sources: page,
        next,
    }))
}

type Answer<T> = Result<Json<T>, Refusal>;

async fn create(
    State(sources): State<Sources>,
    Json(details): Json<SourceDetails>,
) -> Result<(StatusCode, Json<Source>), Refusal> {
    Ok((StatusCode::CREATED, Json(sources.create(details).await?)))
}

async fn read(State(sources): State<Sources>, Path(id): Path<Uuid>) -> Answer<Source> {
    sources.get(id).await.map(Json)
}

/// What the body does not name stays as it is.
async fn update(
    State(sources): State<Sources>,
    Path(id): Path<Uuid>,
    Json(members): Json<Members>,
) -> Answer<Source> {
    sources.update(id, &members).await.map(Json)
}

#[derive(Deserialize)]
struct Why {
    reason: Option<String>,
}

async fn delete(
    State(sources): State<Sources>,
    Path(id): Path<Uuid>,
    Query(why): Query<Why>,
) -> Result<StatusCode, Refusal> {
    let reason = why.reason.unwrap_or_else(|| "user_requested".into());
    sources.delete(id, reason).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn enable(
    State(sources): State<Sources>,
    Path(id): Path<Uuid>,
    why: Option<Json<Toggle>>,
) -> Answer<Source> {
    sources.toggle(id, true, said(why)).await.map(Json)
}

async fn disable(
    State(sources): State<Sources>,
    Path(id): Path<Uuid>,
    why: Option<Json<Toggle>>,
) -> Answer<Source> {
    sources.toggle(id, false, said(why)).await.map(Json)
}

/// Whoever says nothing is a person who wants it so.
fn said(why: Option<Json<Toggle>>) -> Toggle {
    let unsaid = || Toggle {
        reason: "user_requested".into(),
        toggled_by: ToggledBy::User,
    };
    why.map_or_else(unsaid, |Json(why)| why)
}

async fn metrics(State(publisher): State<Publisher>) -> String {
    publisher
        .outbox()
        .map(fanfare::Bus::metrics)
        .unwrap_or_default()
}
