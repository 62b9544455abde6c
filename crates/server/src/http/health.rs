//! Whether to restart the server (`/livez`), to send it traffic (`/readyz`), and which part is at
//! fault (`/readyz/{component}`). Liveness never depends on the backend: restarting us does not
//! mend it.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use crate::app::App;
use crate::http::params::Segment;
use crate::http::problem::{Code, Problem};
use crate::http::render;
use crate::http::route::Route;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/livez", live)
            .about("Whether the server runs at all")
            .answer(200, "It does", "Alive"),
        Route::get("/readyz", ready)
            .about("Whether the server takes work")
            .answer(200, "It does", "Readiness")
            .answer(503, "It does not, or not any more", "Readiness"),
        Route::get("/readyz/{component}", component)
            .about("Whether one component works")
            .segment("component", "server, bus or backend")
            .answer(200, "It does", "Component")
            .answer(503, "It does not", "Component")
            .problems(&[Code::NotFound]),
        Route::get("/health/redis", redis)
            .about("Whether the Redis of this server works")
            .answer(200, "It does", "Component")
            .answer(503, "It does not", "Component")
            .problems(&[Code::NotFound]),
    ]
}

/// One part of the server.
#[derive(Debug, Serialize)]
struct Component {
    name: &'static str,
    ok: bool,
    detail: String,
}

#[derive(Debug, Serialize)]
struct Readiness {
    ok: bool,
    components: [Component; 3],
}

async fn live() -> Result<Response, Problem> {
    render::wrapped("ok", &true)
}

async fn ready(State(app): State<App>) -> Result<Response, Problem> {
    let components = components(&app).await;
    let ok = components.iter().all(|component| component.ok);
    render::answer(status(ok), &Readiness { ok, components })
}

async fn component(State(app): State<App>, Segment(name): Segment) -> Result<Response, Problem> {
    let components = components(&app).await;
    let found = components.iter().find(|component| component.name == name);
    let Some(component) = found else {
        let detail = format!("there is no component `{}`", name.escape_debug());
        return Err(Problem::new(Code::NotFound, detail));
    };
    render::answer(status(component.ok), component)
}

async fn redis(State(app): State<App>) -> Result<Response, Problem> {
    if app.backend().capabilities().backend != "redis" {
        let detail = "no Redis is configured";
        return Err(Problem::new(Code::NotFound, detail));
    }
    let health = app.backend().admin().health().await;
    let component = Component {
        name: "redis",
        ok: health.ok,
        detail: health.detail,
    };
    render::answer(status(component.ok), &component)
}

async fn components(app: &App) -> [Component; 3] {
    let draining = app.draining().is_cancelled();
    let health = app.bus().health().await;
    let failing: Vec<String> = health
        .failing
        .iter()
        .map(|(name, error)| format!("{name}: {error}"))
        .collect();
    [
        Component {
            name: "server",
            ok: !draining,
            detail: if draining { "draining" } else { "running" }.into(),
        },
        Component {
            name: "bus",
            ok: health.phase == "running" && failing.is_empty(),
            detail: if failing.is_empty() {
                health.phase.into()
            } else {
                failing.join("; ")
            },
        },
        Component {
            name: "backend",
            ok: health.backend.ok,
            detail: health.backend.detail,
        },
    ]
}

fn status(ok: bool) -> StatusCode {
    if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}
