//! The HTTP side: one resource per file, each with its routes; this file puts them together and
//! wraps them. The order of the wrappers, outermost first: response headers and the log line, host
//! and origin, draining.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::config::ServerConfig;
use crate::http::problem::{Code, Problem};
use crate::http::route::Route;
use fanfare::bus::Bus;

mod audit;
mod body;
mod cursor;
mod dead_letters;
mod events;
mod health;
mod held;
mod history;
mod host;
mod idempotency;
mod metrics;
mod object;
pub(crate) mod openapi;
mod params;
pub(crate) mod problem;
mod pull;
mod render;
mod route;
mod settle;
mod stats;
mod status_page;
mod subscriptions;
mod tail;
mod time;
mod token;

/// Every route that the server has; the router and `/openapi.json` are both made from it.
fn routes() -> Vec<Route> {
    [
        events::routes(),
        history::routes(),
        tail::routes(),
        subscriptions::routes(),
        pull::routes(),
        settle::routes(),
        dead_letters::routes(),
        stats::routes(),
        audit::routes(),
        health::routes(),
        metrics::routes(),
        openapi::routes(),
        status_page::routes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The whole service, and the state that it shares with the server.
pub(crate) fn router(bus: Bus, config: ServerConfig) -> (Router, App) {
    let routes = routes();
    let document = openapi::render(&routes);
    let app = App::new(bus, config, document.to_string().into());
    let mut service = Router::new();
    for route in routes {
        service = service.route(route.path, route.handler);
    }
    let service = service
        .fallback(no_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(
            app.clone(),
            refuse_when_draining,
        ))
        .layer(middleware::from_fn_with_state(app.clone(), host::check))
        .layer(middleware::from_fn_with_state(app.clone(), finish))
        .with_state(app.clone());
    (service, app)
}

async fn no_route(request: Request) -> Problem {
    let path = request.uri().path().escape_debug().to_string();
    Problem::new(
        Code::NoRoute,
        format!("`{path}` is not a route; see /openapi.json"),
    )
}

async fn method_not_allowed(request: Request) -> Problem {
    let detail = format!("{} is not taken by this route", request.method());
    Problem::new(Code::MethodNotAllowed, detail)
}

/// While draining, only what ends work already handed out, and what operators look at, goes on.
async fn refuse_when_draining(State(app): State<App>, request: Request, next: Next) -> Response {
    if !app.draining().is_cancelled() {
        return next.run(request).await;
    }
    let path = request.uri().path();
    let goes_on =
        !path.starts_with("/v1/") || path.ends_with("/settle") || path.ends_with("/extend");
    let mut response = if goes_on {
        next.run(request).await
    } else {
        Problem::new(Code::Draining, "the server is shutting down, ask again").into_response()
    };
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

/// What every answer carries. Scripts, styles and connections come from this server only, and
/// nothing may frame it.
const SECURITY_HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];

async fn finish(State(app): State<App>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let started = app.clock().now();
    let mut response = run(request, next).await;
    for (name, value) in SECURITY_HEADERS {
        let value = HeaderValue::from_static(value);
        response.headers_mut().entry(name).or_insert(value);
    }
    tracing::debug!(
        %method,
        path,
        status = response.status().as_u16(),
        elapsed = ?app.clock().now().since(started),
        "request"
    );
    response
}

/// A panic is a defect of ours, and the client's to know about; the connection goes on.
async fn run(request: Request, next: Next) -> Response {
    let answer = std::panic::AssertUnwindSafe(next.run(request));
    let response = futures::FutureExt::catch_unwind(answer).await;
    response.unwrap_or_else(|_| {
        tracing::error!("a handler panicked");
        Problem::new(
            Code::Internal,
            "the request failed on a defect of the server",
        )
        .into_response()
    })
}
