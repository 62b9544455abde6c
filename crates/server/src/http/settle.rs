//! `POST /v1/subscriptions/{name}/settle` and `.../extend`: ending deliveries that were pulled, or
//! holding them longer. Answers come in the order of the request, token by token.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use fanfare::bus::retry;
use fanfare::core::delivery::{Receipt, Settled, Settlement};
use fanfare::core::error::{Error, Result as CoreResult};
use fanfare::core::subscription::{MAX_LEASE, MIN_LEASE, SubscriptionName, SubscriptionSpec};
use fanfare::core::timestamp::duration;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::app::App;
use crate::http::body::JsonBody;
use crate::http::object::Object;
use crate::http::params::Segment;
use crate::http::problem::{Code, Problem};
use crate::http::render;
use crate::http::route::Route;
use crate::http::token::Token;

/// The most tokens of one request.
const MAX: usize = 1_000;
/// The longest `reason`, in bytes.
const MAX_REASON_BYTES: usize = 4_096;
/// The longest `retry_after`.
const MAX_DELAY: Duration = Duration::from_hours(168);

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/subscriptions/{name}/settle", settle)
            .about("Settle deliveries")
            .segment("name", "the subscription")
            .body("Settlements")
            .answer(200, "One result per settlement, in order", "Results")
            .problems(&[Code::NotFound]),
        Route::post("/v1/subscriptions/{name}/extend", extend)
            .about("Hold deliveries longer")
            .segment("name", "the subscription")
            .body("Extension")
            .answer(200, "One result per delivery, in order", "Results")
            .problems(&[Code::NotFound]),
    ]
}

/// What became of one token.
#[derive(Debug, Serialize)]
struct Outcome {
    delivery: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl Outcome {
    fn new(delivery: String, settled: Settled) -> Self {
        let reason = match settled {
            Settled::Done => None,
            Settled::Late => Some("late"),
            Settled::Already => Some("settled"),
            Settled::Unknown => Some("unknown"),
        };
        Self {
            delivery,
            ok: reason.is_none(),
            reason,
        }
    }
}

/// One settlement as it was asked for.
struct Wish {
    delivery: String,
    how: How,
}

enum How {
    Ack,
    Drop,
    Release,
    DeadLetter {
        error: String,
    },
    Retry {
        after: Option<Duration>,
        error: String,
    },
}

async fn settle(
    State(app): State<App>,
    Segment(name): Segment,
    body: JsonBody,
) -> Result<Response, Problem> {
    let name = SubscriptionName::parse(&name)?;
    let mut body = body.object()?;
    let given = body.array("settlements", MAX);
    let given = body.require("settlements", given).unwrap_or_default();
    let wishes: Vec<Wish> = given
        .into_iter()
        .enumerate()
        .filter_map(|(index, raw)| wish(&mut body, index, raw))
        .collect();
    body.finish()?;
    // It also says that there is such a subscription.
    let spec = app.backend().admin().spec(&name).await?;
    let (tokens, hows): (Vec<_>, Vec<_>) = wishes.into_iter().map(|w| (w.delivery, w.how)).unzip();
    let settlements = tokens.iter().zip(hows).filter_map(|(text, how)| {
        let token = own(text, &name)?;
        Some((token.receipt, how.settlement(&spec, token.attempt)))
    });
    let settlements: Vec<(Receipt, Settlement)> = settlements.collect();
    let settled = if settlements.is_empty() {
        Vec::new()
    } else {
        app.member(&name).await?.settle(settlements).await?
    };
    answer(&name, tokens, settled)
}

async fn extend(
    State(app): State<App>,
    Segment(name): Segment,
    body: JsonBody,
) -> Result<Response, Problem> {
    let name = SubscriptionName::parse(&name)?;
    let mut body = body.object()?;
    let tokens = body.strings("deliveries", MAX, |text| Ok(text.to_owned()));
    let tokens = body.require("deliveries", tokens);
    let lease = body.read("lease", lease);
    let tokens = body.finish_with(tokens)?;
    let spec = app.backend().admin().spec(&name).await?;
    let receipts = tokens
        .iter()
        .filter_map(|text| Some(own(text, &name)?.receipt));
    let receipts: Vec<Receipt> = receipts.collect();
    let extended = if receipts.is_empty() {
        Vec::new()
    } else {
        let member = app.member(&name).await?;
        member
            .extend(&receipts, lease.unwrap_or(spec.lease))
            .await?
    };
    answer(&name, tokens, extended)
}

/// The token, if it is one of this subscription.
fn own(text: &str, name: &SubscriptionName) -> Option<Token> {
    Token::parse(text).filter(|token| token.subscription == *name)
}

/// Puts the backend's answers beside the tokens that reached it; the others are unknown.
fn answer(
    name: &SubscriptionName,
    tokens: Vec<String>,
    settled: Vec<Settled>,
) -> Result<Response, Problem> {
    let mut settled = settled.into_iter();
    let results: Vec<Outcome> = tokens
        .into_iter()
        .map(|text| {
            let outcome = own(&text, name).and_then(|_| settled.next());
            Outcome::new(text, outcome.unwrap_or(Settled::Unknown))
        })
        .collect();
    render::wrapped("results", &results)
}

/// Reads one settlement; what is wrong with it is noted in `body`.
fn wish(body: &mut Object<'_>, index: usize, raw: &RawValue) -> Option<Wish> {
    let mut item = match Object::within(&format!("/settlements/{index}"), raw) {
        Ok(item) => item,
        Err(violation) => {
            body.absorb([violation]);
            return None;
        }
    };
    let delivery = item.take("delivery", "a delivery token");
    let delivery = item.require("delivery", delivery);
    let outcome: Option<String> = item.take("outcome", "a string");
    let outcome = item.require("outcome", outcome);
    let after = item.read("retry_after", delay);
    let error = item.read("reason", reason).unwrap_or_default();
    let how = outcome.and_then(|outcome| match outcome.as_str() {
        "ack" => Some(How::Ack),
        "drop" => Some(How::Drop),
        "release" => Some(How::Release),
        "dead_letter" => Some(How::DeadLetter { error }),
        "retry" => Some(How::Retry { after, error }),
        _ => {
            let detail = "outcome is ack, retry, dead_letter, drop or release";
            item.violate("outcome", detail);
            None
        }
    });
    if after.is_some() && !matches!(how, Some(How::Retry { .. }) | None) {
        item.violate(
            "retry_after",
            "retry_after goes with the outcome retry only",
        );
    }
    body.absorb(item.violations());
    Some(Wish {
        delivery: delivery?,
        how: how?,
    })
}

impl How {
    /// The settlement; the retry policy of the subscription decides about a failure.
    fn settlement(self, spec: &SubscriptionSpec, attempt: u32) -> Settlement {
        match self {
            Self::Ack => Settlement::Ack,
            Self::Drop => Settlement::Drop,
            Self::Release => Settlement::Release,
            Self::DeadLetter { error } => Settlement::DeadLetter {
                reason: retry::reason::REJECTED.into(),
                error,
            },
            Self::Retry { after, error } => match retry::decide(spec, attempt, &error) {
                Settlement::Retry { after: due, error } => Settlement::Retry {
                    after: after.unwrap_or(due),
                    error,
                },
                last => last,
            },
        }
    }
}

fn delay(text: &str) -> CoreResult<Duration> {
    let delay = duration::parse(text)?;
    if delay > MAX_DELAY {
        return Err(Error::invalid("", "retry_after must be at most 7d"));
    }
    Ok(delay)
}

fn lease(text: &str) -> CoreResult<Duration> {
    let lease = duration::parse(text)?;
    if !(MIN_LEASE..=MAX_LEASE).contains(&lease) {
        return Err(Error::invalid("", "lease must be 100ms to 12h"));
    }
    Ok(lease)
}

fn reason(text: &str) -> CoreResult<String> {
    if text.len() > MAX_REASON_BYTES {
        let detail = format!("reason must be at most {MAX_REASON_BYTES} bytes long");
        return Err(Error::invalid("", detail));
    }
    Ok(text.to_owned())
}
