//! `GET /v1/events` and `GET /v1/events/{id}`: past events, page by page, and one of them with its
//! deliveries.

use axum::extract::State;
use axum::response::Response;
use fanfare::core::error::Error;
use fanfare::core::history::{DeliveryInfo, EventQuery, EventStatus, Recorded};
use fanfare::core::pattern::{Pattern, PatternSet};
use fanfare::core::position::Position;
use fanfare::core::timestamp::Timestamp;
use serde::Serialize;

use crate::app::App;
use crate::http::cursor::Cursor;
use crate::http::params::{Params, Segment};
use crate::http::problem::{Code, Problem};
use crate::http::render::List;
use crate::http::route::Route;
use crate::http::{render, time};

/// Events on a page unless `limit` says otherwise.
const DEFAULT_LIMIT: usize = 100;
/// The most events on a page.
const MAX_LIMIT: usize = 1_000;
/// Events read at once.
const STEP: usize = 100;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/events", list)
            .about("List past events, oldest first")
            .query("type", "a pattern; may be given up to 16 times")
            .query(
                "since",
                "recorded at or after: a time, or a duration back from now",
            )
            .query(
                "until",
                "recorded before: a time, or a duration back from now",
            )
            .query("key", "with this ordering key")
            .query("source", "from this source")
            .query("status", "failed, processing, pending or completed")
            .query("order", "asc (default) or desc")
            .query("limit", "events on a page, 1 to 1000, default 100")
            .query("cursor", "`next` of the page before")
            .answer(200, "A page", "EventPage")
            .problems(&[Code::InvalidCursor, Code::Gone, Code::Unsupported]),
        Route::get("/v1/events/{id}", show)
            .about("Show one event with its deliveries and status")
            .segment("id", "the event's id")
            .query("source", "its source, where several events share the id")
            .answer(200, "The event", "EventDetail")
            .problems(&[Code::NotFound, Code::Ambiguous, Code::Unsupported]),
    ]
}

#[derive(Debug, Serialize)]
struct Item {
    position: Position,
    recorded: Timestamp,
}

impl From<&Recorded> for Item {
    fn from(recorded: &Recorded) -> Self {
        Self {
            position: recorded.position,
            recorded: recorded.recorded,
        }
    }
}

async fn list(State(app): State<App>, mut params: Params) -> Result<Response, Problem> {
    let now = app.clock().now();
    let filter = params.describe(&["type", "since", "until", "key", "source", "status", "order"]);
    let patterns = patterns(&mut params);
    let since = params.read("since", |text| time::parse(text, now));
    let until = params.read("until", |text| time::parse(text, now));
    let mut query = EventQuery {
        patterns,
        since,
        until,
        key: params.one("key"),
        source: params.one("source"),
        status: params.word("status", STATUSES),
        descending: params.word("order", &[("asc", false), ("desc", true)]) == Some(true),
        after: None,
        limit: params.limit(DEFAULT_LIMIT, MAX_LIMIT),
    };
    let cursor = params.one("cursor");
    params.finish()?;
    if let Some(cursor) = cursor {
        let cursor = Cursor::open(&cursor, &filter)?;
        query.after = Some(position_of(&cursor)?);
        (query.since, query.until) = (cursor.since, cursor.until);
    }
    let mut list = List::new("events", app.config().limits.answer_bytes);
    let next = fill(&app, &mut list, query.clone()).await?;
    let next = next.map(|after| {
        let cursor = Cursor {
            after: after.to_string(),
            since: query.since,
            until: query.until,
        };
        cursor.seal(&filter)
    });
    list.page(next.as_deref())
}

/// Reads the page in steps, so that large events do not gather in memory; answers what the next page
/// comes after.
async fn fill(
    app: &App,
    list: &mut List,
    mut query: EventQuery,
) -> Result<Option<Position>, Problem> {
    let mut left = query.limit;
    loop {
        query.limit = left.min(STEP);
        let page = app.history()?.events(&query).await?;
        for item in &page.items {
            let room =
                list.push(|out| render::with_event(out, &Item::from(item), Some(&item.event)))?;
            if !room {
                return Ok(Some(item.position));
            }
        }
        left -= page.items.len().min(left);
        // A short page means that the backend looked at enough for one request.
        if page.next.is_none() || left == 0 || page.items.len() < query.limit {
            return Ok(page.next);
        }
        query.after = page.next;
    }
}

const STATUSES: &[(&str, EventStatus)] = &[
    ("failed", EventStatus::Failed),
    ("processing", EventStatus::Processing),
    ("pending", EventStatus::Pending),
    ("completed", EventStatus::Completed),
];

fn position_of(cursor: &Cursor) -> Result<Position, Problem> {
    let parsed = cursor.after.parse();
    parsed.map_err(|_: Error| Problem::new(Code::InvalidCursor, "this is not a cursor"))
}

/// Every `type` parameter as one set; none when there is none.
pub(crate) fn patterns(params: &mut Params) -> Option<PatternSet> {
    let mut patterns = Vec::new();
    let given = params.many("type");
    if given.is_empty() {
        return None;
    }
    for text in given {
        match Pattern::parse(&text) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => params.violate("type", error.message()),
        }
    }
    if patterns.is_empty() {
        return None;
    }
    match PatternSet::new(patterns) {
        Ok(set) => Some(set),
        Err(error) => {
            params.violate("type", error.message());
            None
        }
    }
}

#[derive(Debug, Serialize)]
struct Detail {
    position: Position,
    recorded: Timestamp,
    status: EventStatus,
    deliveries: Vec<DeliveryInfo>,
}

async fn show(
    State(app): State<App>,
    Segment(id): Segment,
    mut params: Params,
) -> Result<Response, Problem> {
    let source = params.one("source");
    params.finish()?;
    let history = app.history()?;
    let found = history.event(&id, source.as_deref()).await?;
    let recorded = match found.as_slice() {
        [] => {
            let detail = format!("no event with the id `{}` is kept", id.escape_debug());
            return Err(Problem::new(Code::NotFound, detail));
        }
        [one] => one,
        many => {
            let sources: Vec<_> = many.iter().map(|r| r.event.source().to_string()).collect();
            let detail = format!("choose a source with ?source=: {}", sources.join(", "));
            return Err(Problem::new(Code::Ambiguous, detail));
        }
    };
    let deliveries = history.deliveries(recorded.position).await?;
    let detail = Detail {
        position: recorded.position,
        recorded: recorded.recorded,
        status: EventStatus::of(&deliveries),
        deliveries,
    };
    let mut out = Vec::new();
    render::with_event(&mut out, &detail, Some(&recorded.event))?;
    Ok(render::json(axum::http::StatusCode::OK, out))
}
