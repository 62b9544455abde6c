//! `/v1/subscriptions`: creating, changing, showing, deleting, pausing and moving them.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use fanfare::core::admin::{Counts, Put, SeekTo, SubscriptionInfo};
use fanfare::core::error::{Error, Result as CoreResult};
use fanfare::core::pattern::{MAX_PATTERNS, Pattern, PatternSet};
use fanfare::core::position::Position;
use fanfare::core::retry::RetryPolicy;
use fanfare::core::subscription::{OnDead, Start, SubscriptionName, SubscriptionSpec};
use fanfare::core::timestamp::{Timestamp, duration};
use serde::Serialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::http::body::JsonBody;
use crate::http::object::Object;
use crate::http::params::{Params, Segment};
use crate::http::problem::{Code, Problem};
use crate::http::route::Route;
use crate::http::{render, time};

const ONE: &str = "/v1/subscriptions/{name}";
const NAME: &str = "1 to 64 of A-Z a-z 0-9 _ and -";

pub(crate) fn routes() -> Vec<Route> {
    let named = |route: Route| {
        route
            .segment("name", NAME)
            .problems(&[Code::NotFound, Code::Conflict, Code::Invalid])
    };
    vec![
        Route::get("/v1/subscriptions", list)
            .about("List the subscriptions by name")
            .answer(200, "All of them", "SubscriptionList"),
        named(Route::get(ONE, show))
            .about("Show a subscription")
            .answer(200, "The subscription", "Subscription"),
        named(Route::put(ONE, put))
            .about("Create a subscription, or change its lease, retry policy or dead-letter option")
            .body("SubscriptionSpec")
            .answer(200, "It was there; it is as asked now", "Subscription")
            .answer(201, "It is new", "Subscription"),
        named(Route::patch(ONE, patch))
            .about("Change the patterns for events from now on")
            .body("SubscriptionPatch")
            .answer(200, "The subscription", "Subscription"),
        named(Route::delete(ONE, delete))
            .about("Delete a subscription")
            .query("force", "true: also while anything is unsettled or dead")
            .empty(204, "It is gone"),
        named(Route::post("/v1/subscriptions/{name}/pause", pause))
            .about("Stop handing out deliveries")
            .answer(200, "The subscription", "Subscription"),
        named(Route::post("/v1/subscriptions/{name}/resume", resume))
            .about("Hand out deliveries again")
            .answer(200, "The subscription", "Subscription"),
        named(Route::post("/v1/subscriptions/{name}/seek", seek))
            .about("Move a subscription to another place in the log")
            .body("Seek")
            .answer(
                200,
                "Where it was, where it is, and what lies above",
                "Sought",
            )
            .problems(&[Code::Unsupported]),
    ]
}

/// A subscription as answers show it.
#[derive(Debug, Serialize)]
pub(crate) struct View {
    name: SubscriptionName,
    patterns: PatternSet,
    start: Value,
    ordered: bool,
    on_dead: OnDead,
    #[serde(with = "duration")]
    lease: std::time::Duration,
    retry: RetryPolicy,
    dead_letter: bool,
    created: Timestamp,
    paused: bool,
    counts: Counts,
    frontier: Position,
    oldest_unsettled: Option<Timestamp>,
}

impl From<SubscriptionInfo> for View {
    fn from(info: SubscriptionInfo) -> Self {
        let spec = info.spec;
        Self {
            start: match spec.start {
                Start::Earliest => json!("earliest"),
                Start::Latest => json!("latest"),
                Start::Time(time) => json!(time),
                Start::After(position) => json!(position),
            },
            name: spec.name,
            patterns: spec.patterns,
            ordered: spec.ordered,
            on_dead: spec.on_dead,
            lease: spec.lease,
            retry: spec.retry,
            dead_letter: spec.dead_letter,
            created: info.created,
            paused: info.paused,
            counts: info.counts,
            frontier: info.frontier,
            oldest_unsettled: info.oldest_unsettled,
        }
    }
}

async fn list(State(app): State<App>, params: Params) -> Result<Response, Problem> {
    params.finish()?;
    let subscriptions = app.backend().admin().list().await?;
    let views: Vec<View> = subscriptions.into_iter().map(View::from).collect();
    render::wrapped("subscriptions", &views)
}

async fn show(State(app): State<App>, Segment(name): Segment) -> Result<Response, Problem> {
    view(&app, &SubscriptionName::parse(&name)?, StatusCode::OK).await
}

async fn view(app: &App, name: &SubscriptionName, status: StatusCode) -> Result<Response, Problem> {
    let info = app.backend().admin().get(name).await?;
    render::answer(status, &View::from(info))
}

async fn put(
    State(app): State<App>,
    Segment(name): Segment,
    body: JsonBody,
) -> Result<Response, Problem> {
    let name = SubscriptionName::parse(&name)?;
    let spec = spec(name, body.object()?, app.clock().now())?;
    let status = match app.backend().admin().put(&spec).await? {
        Put::Created => StatusCode::CREATED,
        Put::Unchanged | Put::Changed => StatusCode::OK,
    };
    view(&app, &spec.name, status).await
}

/// Reads a subscription; everything but the patterns has a default.
fn spec(
    name: SubscriptionName,
    mut body: Object<'_>,
    now: Timestamp,
) -> Result<SubscriptionSpec, Problem> {
    let patterns = patterns(&mut body);
    let mut spec = SubscriptionSpec::new(name, Pattern::everything().into());
    if let Some(start) = body.read("start", |text| start(text, now)) {
        spec.start = start;
    }
    if let Some(ordered) = body.take("ordered", "true or false") {
        spec.ordered = ordered;
    }
    if let Some(on_dead) = body.take("on_dead", "continue or park") {
        spec.on_dead = on_dead;
    }
    if let Some(lease) = body.read("lease", duration::parse) {
        spec.lease = lease;
    }
    if let Some(retry) = body.object("retry") {
        let (retry, violations) = retry_policy(retry);
        spec.retry = retry;
        body.absorb(violations);
    }
    if let Some(dead_letter) = body.take("dead_letter", "true or false") {
        spec.dead_letter = dead_letter;
    }
    if let Err(error) = spec.check() {
        body.absorb(error.violations().to_vec());
    }
    spec.patterns = body.finish_with(patterns)?;
    Ok(spec)
}

fn retry_policy(mut body: Object<'_>) -> (RetryPolicy, Vec<fanfare::core::error::Violation>) {
    let default = RetryPolicy::default();
    let policy = RetryPolicy {
        max_attempts: body
            .take("max_attempts", "a whole number")
            .unwrap_or(default.max_attempts),
        initial: body
            .read("initial", duration::parse)
            .unwrap_or(default.initial),
        factor: body.take("factor", "a number").unwrap_or(default.factor),
        max: body.read("max", duration::parse).unwrap_or(default.max),
        jitter: body
            .take("jitter", "true or false")
            .unwrap_or(default.jitter),
    };
    (policy, body.violations())
}

/// `pattern` as one string or `patterns` as a list, one of which is required.
fn patterns(body: &mut Object<'_>) -> Option<PatternSet> {
    let one = body.read("pattern", Pattern::parse).map(PatternSet::from);
    let many = body.strings("patterns", MAX_PATTERNS, Pattern::parse);
    let many = many.and_then(|patterns| match PatternSet::new(patterns) {
        Ok(set) => Some(set),
        Err(error) => {
            if !body.is_violated_at("patterns") {
                body.violate("patterns", error.message());
            }
            None
        }
    });
    if one.is_some() && many.is_some() {
        body.violate("patterns", "give either pattern or patterns");
    }
    let given = one.or(many);
    if !body.is_violated_at("patterns") {
        body.require("pattern", given.as_ref());
    }
    given
}

fn start(text: &str, now: Timestamp) -> CoreResult<Start> {
    Ok(match text {
        "earliest" => Start::Earliest,
        "latest" => Start::Latest,
        _ => match text.parse() {
            Ok(position) => Start::After(position),
            Err(_) => Start::Time(time::parse(text, now).map_err(|_| {
                let detail = "start is earliest, latest, a time or a position";
                Error::invalid("", detail)
            })?),
        },
    })
}

async fn patch(
    State(app): State<App>,
    Segment(name): Segment,
    body: JsonBody,
) -> Result<Response, Problem> {
    let name = SubscriptionName::parse(&name)?;
    let mut body = body.object()?;
    let patterns = patterns(&mut body);
    let patterns = body.finish_with(patterns)?;
    app.backend().admin().set_patterns(&name, patterns).await?;
    view(&app, &name, StatusCode::OK).await
}

async fn delete(
    State(app): State<App>,
    Segment(name): Segment,
    mut params: Params,
) -> Result<Response, Problem> {
    let name = SubscriptionName::parse(&name)?;
    let force = params.word("force", &[("true", true), ("false", false)]);
    params.finish()?;
    let force = force.unwrap_or(false);
    app.backend().admin().delete(&name, force).await?;
    app.forget_member(&name);
    app.bus().telemetry().forget(&name);
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn pause(State(app): State<App>, Segment(name): Segment) -> Result<Response, Problem> {
    set_paused(&app, &name, true).await
}

async fn resume(State(app): State<App>, Segment(name): Segment) -> Result<Response, Problem> {
    set_paused(&app, &name, false).await
}

async fn set_paused(app: &App, name: &str, paused: bool) -> Result<Response, Problem> {
    let name = SubscriptionName::parse(name)?;
    app.backend().admin().set_paused(&name, paused).await?;
    view(app, &name, StatusCode::OK).await
}

async fn seek(
    State(app): State<App>,
    Segment(name): Segment,
    body: JsonBody,
) -> Result<Response, Problem> {
    let name = SubscriptionName::parse(&name)?;
    let now = app.clock().now();
    let mut body = body.object()?;
    let to = body.read("to", |text| seek_to(text, now));
    let to = body.require("to", to);
    let dry_run = body.take("dry_run", "true or false").unwrap_or(false);
    let to = body.finish_with(to)?;
    let sought = app.backend().admin().seek(&name, &to, dry_run).await?;
    render::answer(StatusCode::OK, &sought)
}

fn seek_to(text: &str, now: Timestamp) -> CoreResult<SeekTo> {
    if let Some(id) = text.strip_prefix("event:") {
        return Ok(SeekTo::Event(id.to_owned()));
    }
    Ok(match start(text, now) {
        Ok(Start::Earliest) => SeekTo::Earliest,
        Ok(Start::Latest) => SeekTo::Latest,
        Ok(Start::Time(time)) => SeekTo::Time(time),
        Ok(Start::After(position)) => SeekTo::After(position),
        Err(_) => {
            let detail = "to is earliest, latest, a time, a position, or event: and an id";
            return Err(Error::invalid("", detail));
        }
    })
}
