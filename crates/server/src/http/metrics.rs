//! `GET /metrics`: the Prometheus text. The bus counts and names its metrics and asks the backend for
//! the rest; added here is what only the server knows.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::http::problem::Problem;
use crate::http::route::Route;

const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/metrics", metrics)
            .about("Figures for Prometheus")
            .answer_as(200, "The Prometheus text format", "text/plain", None),
    ]
}

async fn metrics(State(app): State<App>) -> Result<Response, Problem> {
    let mut text = app.bus().metrics();
    text.push_str(&app.bus().backend_metrics().await);
    let build = concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
    for (name, labels, help, value) in [
        ("fanfare_tails", "", "Open tails.", app.open_tails()),
        ("fanfare_pulls", "", "Pulls at work.", app.open_pulls()),
        ("fanfare_build_info", build, "What is running.", 1),
    ] {
        // Writing into a string cannot fail.
        let _ = write!(
            text,
            "# HELP {name} {help}\n# TYPE {name} gauge\n{name}{labels} {value}\n"
        );
    }
    let media_type = HeaderValue::from_static(MEDIA_TYPE);
    Ok(([(header::CONTENT_TYPE, media_type)], text).into_response())
}
