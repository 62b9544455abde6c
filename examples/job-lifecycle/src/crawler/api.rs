//! `/api/v1/jobs`, reconciliation on request, and metrics.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::{get, post};
use fanfare::Bus;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::jobs::{Job, Jobs};
use super::metrics::{self, Counts};
use super::reconcile::{Reconciler, Repairs};
use crate::events::SourceDetails;
use crate::http::Refusal;

/// The most bytes of a request.
const BODY_BYTES: usize = 64 << 10;

/// What the routes work with.
#[derive(Debug, Clone)]
pub struct Service {
    /// The jobs.
    pub jobs: Jobs,
    /// Who compares them with their sources.
    pub reconciler: Reconciler,
    /// The stream, once it could be reached.
    pub stream: Arc<OnceLock<Bus>>,
}

/// The routes.
pub fn router(service: Service) -> Router {
    Router::new()
        .route("/api/v1/jobs", get(list).post(create))
        .route("/api/v1/jobs/stats", get(stats))
        .route("/api/v1/jobs/by-source/{id}", get(by_source))
        .route("/api/v1/jobs/{id}", get(read))
        .route("/api/v1/jobs/{id}/executions", get(executions))
        .route("/api/v1/jobs/{id}/pause", post(pause))
        .route("/api/v1/jobs/{id}/resume", post(resume))
        .route("/api/v1/jobs/{id}/force-run", post(force_run))
        .route("/api/v1/reconcile", post(reconcile))
        .route("/metrics", get(metrics))
        .with_state(service)
        .layer(DefaultBodyLimit::max(BODY_BYTES))
}

type Answer<T> = Result<Json<T>, Refusal>;

async fn list(State(service): State<Service>) -> Answer<Vec<Job>> {
    Ok(Json(service.jobs.list(None).await?))
}

async fn by_source(State(service): State<Service>, Path(id): Path<Uuid>) -> Answer<Vec<Job>> {
    Ok(Json(service.jobs.list(Some(id)).await?))
}

async fn read(State(service): State<Service>, Path(id): Path<Uuid>) -> Answer<Job> {
    found(service.jobs.get(id).await?)
}

/// A job by hand: what a source says, and perhaps which one.
#[derive(Deserialize)]
struct Wanted {
    source_id: Option<Uuid>,
    #[serde(flatten)]
    details: SourceDetails,
}

async fn create(
    State(service): State<Service>,
    Json(wanted): Json<Wanted>,
) -> Result<(StatusCode, Json<Job>), Refusal> {
    let made = service
        .jobs
        .create(wanted.source_id, &wanted.details)
        .await?;
    Ok((StatusCode::CREATED, Json(made)))
}

async fn pause(State(service): State<Service>, Path(id): Path<Uuid>) -> Answer<Job> {
    found(service.jobs.set_paused(id, true).await?)
}

async fn resume(State(service): State<Service>, Path(id): Path<Uuid>) -> Answer<Job> {
    found(service.jobs.set_paused(id, false).await?)
}

async fn force_run(State(service): State<Service>, Path(id): Path<Uuid>) -> Answer<Job> {
    let jobs = &service.jobs;
    match jobs.force_run(id).await? {
        Some(job) => Ok(Json(job)),
        None if jobs.get(id).await?.is_some() => Err(Refusal::Conflict("the job is paused")),
        None => Err(Refusal::NotFound),
    }
}

async fn executions(State(service): State<Service>, Path(id): Path<Uuid>) -> Answer<Vec<Value>> {
    Ok(Json(service.jobs.executions(id).await?))
}

async fn stats(State(service): State<Service>) -> Answer<Counts> {
    Ok(Json(service.jobs.counts().await?))
}

async fn reconcile(State(service): State<Service>) -> Answer<Repairs> {
    Ok(Json(service.reconciler.reconcile().await?))
}

async fn metrics(State(service): State<Service>) -> Result<String, Refusal> {
    let stream = service.stream.get().map(Bus::metrics).unwrap_or_default();
    let counts = service.jobs.counts().await?;
    Ok(stream + &metrics::render(&counts, service.reconciler.repaired()))
}

fn found(job: Option<Job>) -> Answer<Job> {
    job.map(Json).ok_or(Refusal::NotFound)
}
