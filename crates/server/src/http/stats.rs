//! `GET /v1/stats`: one look at everything: stream, subscriptions, bus, server, capabilities.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use fanfare::bus::Stats;
use fanfare::core::admin::StreamStats;
use fanfare::core::capability::Capabilities;
use fanfare::core::timestamp::Timestamp;
use serde::Serialize;

use crate::app::App;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::render;
use crate::http::route::Route;
use crate::http::subscriptions::View;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/stats", stats)
            .about("Show what the stream holds and how its subscriptions stand")
            .answer(200, "The figures", "Stats"),
    ]
}

#[derive(Debug, Serialize)]
struct Body {
    stream: StreamStats,
    subscriptions: Vec<View>,
    bus: Stats,
    capabilities: Capabilities,
    server: Process,
}

/// This server.
#[derive(Debug, Serialize)]
struct Process {
    version: &'static str,
    started: Timestamp,
    uptime_seconds: u64,
    tails: usize,
    pulls: usize,
    draining: bool,
}

async fn stats(State(app): State<App>, params: Params) -> Result<Response, Problem> {
    params.finish()?;
    let admin = app.backend().admin();
    let stream = admin.stats().await?;
    let subscriptions = admin.list().await?;
    let subscriptions: Vec<View> = subscriptions.into_iter().map(View::from).collect();
    let now = app.clock().now();
    let body = Body {
        stream,
        subscriptions,
        bus: app.bus().stats(),
        capabilities: app.backend().capabilities(),
        server: Process {
            version: env!("CARGO_PKG_VERSION"),
            started: app.started(),
            uptime_seconds: now.since(app.started()).as_secs(),
            tails: app.open_tails(),
            pulls: app.open_pulls(),
            draining: app.draining().is_cancelled(),
        },
    };
    render::answer(StatusCode::OK, &body)
}
