//! `GET /v1/audit`: whether every event is accounted for, subscription by subscription. The proof is
//! the backend's.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use fanfare::core::admin::Audited;
use fanfare::core::subscription::SubscriptionName;
use serde::Serialize;

use crate::app::App;
use crate::http::params::Params;
use crate::http::problem::{Code, Problem};
use crate::http::render;
use crate::http::route::Route;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/audit", audit)
            .about("Prove that nothing is lost and nothing invented")
            .query("subscription", "only this one")
            .answer(200, "The balance; `ok` says whether it holds", "Audit")
            .problems(&[Code::NotFound, Code::Unsupported]),
    ]
}

#[derive(Debug, Serialize)]
struct Body {
    ok: bool,
    subscriptions: Vec<Audited>,
}

async fn audit(State(app): State<App>, mut params: Params) -> Result<Response, Problem> {
    let name = params.read("subscription", SubscriptionName::parse);
    params.finish()?;
    let audited = app.backend().admin().audit(name.as_ref()).await?;
    let ok = audited
        .iter()
        .all(|one| one.breaches.is_empty() && one.counts.balanced());
    let body = Body {
        ok,
        subscriptions: audited,
    };
    render::answer(StatusCode::OK, &body)
}
