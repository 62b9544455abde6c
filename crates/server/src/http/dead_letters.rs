//! `/v1/dead-letters`: listing what was given up, mending it, giving it back, or discarding it.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fanfare::bus::options::RedriveOptions;
use fanfare::core::cloudevents::media_type;
use fanfare::core::data::{Data, DataKind};
use fanfare::core::dead_letter::{DeadBody, DeadLetter, DeadLetterFilter, Selection};
use fanfare::core::pattern::{Pattern, PatternSet};
use fanfare::core::position::Position;
use fanfare::core::subscription::SubscriptionName;
use fanfare::core::timestamp::Timestamp;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::app::App;
use crate::http::body::JsonBody;
use crate::http::cursor::Cursor;
use crate::http::object::Object;
use crate::http::params::{Params, Segment};
use crate::http::problem::{Code, Problem};
use crate::http::render::List;
use crate::http::route::Route;
use crate::http::{history, render, time};

/// Letters on a page unless `limit` says otherwise.
const DEFAULT_LIMIT: usize = 100;
/// The most letters on a page.
const MAX_LIMIT: usize = 1_000;
/// Letters read at once.
const STEP: usize = 100;
/// The most ids in one request.
const MAX_IDS: usize = 1_000;
/// The highest rate of a redrive, in letters per second.
const MAX_RATE: u32 = 1_000_000;

const ONE: &str = "/v1/dead-letters/{id}";

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/dead-letters", list)
            .about("List dead letters, oldest first")
            .query("subscription", "of this subscription")
            .query(
                "type",
                "whose event type matches; may be given up to 16 times",
            )
            .query(
                "reason",
                "with this reason, such as max_attempts or rejected",
            )
            .query("fingerprint", "whose failures look the same")
            .query(
                "since",
                "last failed at or after: a time, or a duration back from now",
            )
            .query(
                "until",
                "last failed before: a time, or a duration back from now",
            )
            .query("limit", "letters on a page, 1 to 1000, default 100")
            .query("cursor", "`next` of the page before")
            .answer(200, "A page", "DeadLetterPage")
            .problems(&[Code::InvalidCursor]),
        Route::get(ONE, show)
            .about("Show a dead letter")
            .segment("id", "the dead letter's id")
            .answer(200, "The dead letter", "DeadLetter")
            .problems(&[Code::NotFound]),
        Route::put(ONE, replace)
            .about("Replace the data, keeping the original beside them")
            .segment("id", "the dead letter's id")
            .body("Replacement")
            .answer(200, "The dead letter", "DeadLetter")
            .problems(&[Code::NotFound, Code::Conflict]),
        Route::post("/v1/dead-letters/redrive", redrive)
            .about("Give dead letters back to their subscriptions")
            .body("Redrive")
            .answer(
                200,
                "How many were meant, and how many were redriven",
                "Redriven",
            ),
        Route::post("/v1/dead-letters/discard", discard)
            .about("Remove dead letters for good")
            .body("Discard")
            .answer(
                200,
                "How many were meant, and how many were discarded",
                "Discarded",
            ),
    ]
}

#[derive(Debug, Serialize)]
struct View<'a> {
    id: &'a str,
    subscription: &'a SubscriptionName,
    position: Position,
    reason: &'a str,
    error: &'a str,
    attempts: u32,
    first_failure: Timestamp,
    last_failure: Timestamp,
    fingerprint: &'a str,
    /// The data before somebody edited them.
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<Original>,
    /// Input that could not be read as an event.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_base64: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Original {
    Data(Box<RawValue>),
    DataBase64(String),
}

impl Original {
    /// JSON as it is; everything else so that no byte changes.
    fn new(data: &Data) -> Self {
        let json = match data.kind() {
            DataKind::Json => String::from_utf8(data.bytes().to_vec()).ok(),
            DataKind::Text | DataKind::Binary => None,
        };
        match json.and_then(|text| RawValue::from_string(text).ok()) {
            Some(raw) => Self::Data(raw),
            None => Self::DataBase64(STANDARD.encode(data.bytes())),
        }
    }
}

fn write(out: &mut Vec<u8>, letter: &DeadLetter) -> Result<(), Problem> {
    let raw = match &letter.body {
        DeadBody::Event(_) => None,
        DeadBody::Raw(bytes) => Some(STANDARD.encode(bytes)),
    };
    let view = View {
        id: &letter.id,
        subscription: &letter.subscription,
        position: letter.position,
        reason: &letter.reason,
        error: &letter.error,
        attempts: letter.attempts,
        first_failure: letter.first_failure,
        last_failure: letter.last_failure,
        fingerprint: &letter.fingerprint,
        original: letter.original.as_ref().map(Original::new),
        raw_base64: raw,
    };
    render::with_event(out, &view, letter.body.event())
}

fn answer(letter: &DeadLetter) -> Result<Response, Problem> {
    let mut out = Vec::new();
    write(&mut out, letter)?;
    Ok(render::json(StatusCode::OK, out))
}

async fn list(State(app): State<App>, mut params: Params) -> Result<Response, Problem> {
    let now = app.clock().now();
    let names = [
        "subscription",
        "type",
        "reason",
        "fingerprint",
        "since",
        "until",
    ];
    let described = params.describe(&names);
    let mut filter = DeadLetterFilter {
        subscription: params.read("subscription", SubscriptionName::parse),
        patterns: history::patterns(&mut params),
        reason: params.one("reason"),
        fingerprint: params.one("fingerprint"),
        since: params.read("since", |text| time::parse(text, now)),
        until: params.read("until", |text| time::parse(text, now)),
    };
    let limit = params.limit(DEFAULT_LIMIT, MAX_LIMIT);
    let cursor = params.one("cursor");
    params.finish()?;
    let mut after = None;
    if let Some(cursor) = cursor {
        let cursor = Cursor::open(&cursor, &described)?;
        (filter.since, filter.until) = (cursor.since, cursor.until);
        after = Some(cursor.after);
    }
    let mut list = List::new("dead_letters", app.config().limits.answer_bytes);
    let next = fill(&app, &mut list, &filter, after, limit).await?;
    let next = next.map(|after| {
        let cursor = Cursor {
            after,
            since: filter.since,
            until: filter.until,
        };
        cursor.seal(&described)
    });
    list.page(next.as_deref())
}

/// Reads the page in steps, so that large letters do not gather in memory; answers what the next page
/// comes after.
async fn fill(
    app: &App,
    list: &mut List,
    filter: &DeadLetterFilter,
    mut after: Option<String>,
    limit: usize,
) -> Result<Option<String>, Problem> {
    let mut left = limit;
    loop {
        let step = left.min(STEP);
        let letters = app.backend().dead_letters();
        let page = letters.list(filter, after.as_deref(), step).await?;
        for letter in &page.items {
            if !list.push(|out| write(out, letter))? {
                return Ok(Some(letter.id.clone()));
            }
        }
        left -= page.items.len().min(left);
        if page.next.is_none() || left == 0 || page.items.len() < step {
            return Ok(page.next);
        }
        after = page.next;
    }
}

async fn show(State(app): State<App>, Segment(id): Segment) -> Result<Response, Problem> {
    answer(&app.backend().dead_letters().get(&id).await?)
}

async fn replace(
    State(app): State<App>,
    Segment(id): Segment,
    body: JsonBody,
) -> Result<Response, Problem> {
    let mut body = body.object()?;
    let data = body.raw("data");
    let base64 = body.read("data_base64", |text| {
        let decoded = STANDARD.decode(text);
        decoded.map_err(|error| fanfare::core::Error::invalid("", format!("not base64: {error}")))
    });
    if data.is_some() == base64.is_some() && !body.is_violated_at("data_base64") {
        body.violate("data", "give either data or data_base64");
    }
    body.finish()?;
    let letters = app.backend().dead_letters();
    let letter = letters.get(&id).await?;
    let event = letter.body.event();
    let data = match (data, base64) {
        (Some(raw), _) => as_data(raw, event.and_then(|event| event.content_type()))?,
        (None, bytes) => Data::binary(bytes.unwrap_or_default()),
    };
    answer(&letters.replace(&id, data).await?)
}

/// JSON as it is, unless the event says that its data are something else: then the text of a string.
fn as_data(raw: &RawValue, content_type: Option<&str>) -> Result<Data, Problem> {
    if content_type.is_none_or(media_type::is_json) {
        return Ok(Data::json(raw.get().as_bytes().to_vec()));
    }
    serde_json::from_str::<String>(raw.get())
        .map(Data::text)
        .map_err(|_| {
            let detail = "the event's data are not JSON: give a string, or data_base64";
            fanfare::core::Error::invalid("/data", detail).into()
        })
}

async fn redrive(State(app): State<App>, body: JsonBody) -> Result<Response, Problem> {
    let mut body = body.object()?;
    let selection = selection(&mut body, app.clock().now());
    let rate: Option<u32> = body.take("rate", "letters per second, a whole number");
    if rate.is_some_and(|rate| !(1..=MAX_RATE).contains(&rate)) {
        body.violate(
            "rate",
            format!("rate must be 1 to {MAX_RATE} letters per second"),
        );
    }
    let options = RedriveOptions {
        rate,
        limit: body.take("limit", "a whole number"),
        dry_run: body.take("dry_run", "true or false").unwrap_or(false),
    };
    let selection = body.finish_with(selection)?;
    let acted = tokio::select! {
        acted = app.bus().redrive(selection, options) => acted?,
        () = app.draining().cancelled() => {
            let detail = "the server shuts down; what is not redriven yet stays a dead letter";
            return Err(Problem::new(Code::Draining, detail));
        }
    };
    let body = json!({ "matched": acted.matched, "redriven": acted.done });
    render::answer(StatusCode::OK, &body)
}

async fn discard(State(app): State<App>, body: JsonBody) -> Result<Response, Problem> {
    let mut body = body.object()?;
    let selection = selection(&mut body, app.clock().now());
    let dry_run = body.take("dry_run", "true or false").unwrap_or(false);
    let selection = body.finish_with(selection)?;
    let letters = app.backend().dead_letters();
    let (matched, discarded) = if dry_run {
        (letters.count(&selection).await?, 0)
    } else {
        let acted = letters.discard(&selection).await?;
        (acted.matched, acted.done)
    };
    let body = json!({ "matched": matched, "discarded": discarded });
    render::answer(StatusCode::OK, &body)
}

/// `filter` or `ids`; neither is refused, because that would mean all by accident.
fn selection(body: &mut Object<'_>, now: Timestamp) -> Option<Selection> {
    let ids = body.strings("ids", MAX_IDS, |text| Ok(text.to_owned()));
    let filter = body.object("filter").map(|filter| read_filter(filter, now));
    match (ids, filter) {
        (Some(ids), None) => Some(Selection::Ids(ids)),
        (None, Some((filter, violations))) => {
            body.absorb(violations);
            Some(Selection::Filter(filter))
        }
        (Some(_), Some(_)) => {
            body.violate("ids", "give either ids or filter");
            None
        }
        (None, None) => {
            if !body.is_violated_at("ids") && !body.is_violated_at("filter") {
                let detail = "give ids, or a filter; the filter {} means all";
                body.violate("filter", detail);
            }
            None
        }
    }
}

fn read_filter(
    mut body: Object<'_>,
    now: Timestamp,
) -> (DeadLetterFilter, Vec<fanfare::core::error::Violation>) {
    let filter = DeadLetterFilter {
        subscription: body.read("subscription", SubscriptionName::parse),
        patterns: body.read("type", Pattern::parse).map(PatternSet::from),
        reason: body.take("reason", "a string"),
        fingerprint: body.take("fingerprint", "a string"),
        since: body.read("since", |text| time::parse(text, now)),
        until: body.read("until", |text| time::parse(text, now)),
    };
    (filter, body.violations())
}
