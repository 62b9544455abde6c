//! How both services speak HTTP: errors as JSON, serving until told to stop.

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::Failure;

/// Why a request is not answered as hoped.
#[derive(Debug)]
pub enum Refusal {
    /// 404.
    NotFound,
    /// 409, with what is in the way.
    Conflict(&'static str),
    /// 422, with what is wrong.
    Invalid(String),
    /// 503: the database, mostly. It is logged; the client may try again.
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "no such thing".to_owned()),
            Self::Conflict(why) => (StatusCode::CONFLICT, why.to_owned()),
            Self::Invalid(what) => (StatusCode::UNPROCESSABLE_ENTITY, what),
            Self::Failed(error) => {
                tracing::error!(%error, "a request failed");
                let text = "not now, try again".to_owned();
                (StatusCode::SERVICE_UNAVAILABLE, text)
            }
        };
        (status, Json(json!({ "error": text }))).into_response()
    }
}

/// Listens, says where, and serves until `stop`; requests that run are finished.
pub async fn serve(
    listen: &str,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Failure> {
    let listener = TcpListener::bind(listen).await?;
    tracing::info!("listening on http://{}", listener.local_addr()?);
    let serving = axum::serve(listener, router);
    Ok(serving.with_graceful_shutdown(stop).await?)
}

/// Completes when this process is to end: SIGTERM or Ctrl-C, from now on.
pub fn told_to_stop() -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
