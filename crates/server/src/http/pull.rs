//! `POST /v1/subscriptions/{name}/pull`: deliveries for clients in any language, by long poll.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use fanfare::core::delivery::{Delivery, Receipt, Settlement};
use fanfare::core::error::{Error, ErrorKind, Result as CoreResult};
use fanfare::core::position::Position;
use fanfare::core::subscription::SubscriptionName;
use fanfare::core::timestamp::{Timestamp, duration};
use serde::Serialize;

use crate::app::{App, Slot};
use crate::http::body::JsonBody;
use crate::http::held::Held;
use crate::http::params::Segment;
use crate::http::problem::{Code, Problem};
use crate::http::render::{self, List};
use crate::http::route::Route;
use crate::http::token::Token;

/// Deliveries of one pull unless `max` says otherwise.
const DEFAULT_MAX: usize = 10;
/// The most deliveries of one pull.
const MAX: usize = 1_000;

pub(crate) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/subscriptions/{name}/pull", pull)
            .about("Take deliveries, waiting for the first")
            .segment("name", "the subscription")
            .body("Pull")
            .answer(200, "The deliveries; none is normal", "Deliveries")
            .problems(&[Code::NotFound, Code::Busy]),
    ]
}

#[derive(Debug, Serialize)]
struct Item {
    delivery: String,
    attempt: u32,
    lease_until: Timestamp,
    position: Position,
}

async fn pull(
    State(app): State<App>,
    Segment(name): Segment,
    body: JsonBody,
) -> Result<Response, Problem> {
    let name = SubscriptionName::parse(&name)?;
    let longest = app.config().limits.pull_wait;
    let mut body = body.object()?;
    let max = body.take("max", "a whole number").unwrap_or(DEFAULT_MAX);
    if !(1..=MAX).contains(&max) {
        body.violate("max", format!("max must be 1 to {MAX}"));
    }
    let wait = body.read("wait", |text| wait(text, longest));
    body.finish()?;
    let _slot = app.slot(Slot::Pull)?;
    let member = app.member(&name).await?;
    let received = tokio::select! {
        received = member.receive(max, wait.unwrap_or_default()) => received,
        // A waiting pull is answered when the server goes.
        () = app.draining().cancelled() => Ok(Vec::new()),
    };
    let deliveries = match received {
        Ok(deliveries) => deliveries,
        Err(error) => {
            // After any other error the member goes on: it may be the last that knows what a
            // subscription was which somebody destroyed.
            if error.kind() == ErrorKind::NotFound {
                app.forget_member(&name);
            }
            return Err(error.into());
        }
    };
    let receipts: Vec<Receipt> = deliveries.iter().map(|d| d.receipt).collect();
    // From here on whatever goes wrong releases all of them.
    let held = Held::new(app.tasks().clone(), member.clone(), receipts.clone());
    let (body, written) = write(&name, &deliveries, app.config().limits.answer_bytes)?;
    let too_many = receipts.get(written..).unwrap_or_default();
    if !too_many.is_empty() {
        let released = too_many.iter().map(|r| (*r, Settlement::Release));
        member.settle(released.collect()).await?;
    }
    let held = held.with_body(body);
    Ok(render::json(StatusCode::OK, Body::new(held)))
}

fn wait(text: &str, longest: Duration) -> CoreResult<Duration> {
    let wait = duration::parse(text)?;
    if wait > longest {
        let longest = duration::format(longest);
        return Err(Error::invalid(
            "",
            format!("wait must be at most {longest}"),
        ));
    }
    Ok(wait)
}

/// The answer, and how many deliveries it holds.
fn write(
    name: &SubscriptionName,
    deliveries: &[Delivery],
    most: usize,
) -> Result<(Vec<u8>, usize), Problem> {
    let mut list = List::new("deliveries", most);
    let mut written = 0;
    for delivery in deliveries {
        let token = Token {
            subscription: name.clone(),
            attempt: delivery.attempt,
            receipt: delivery.receipt,
        };
        let item = Item {
            delivery: token.to_string(),
            attempt: delivery.attempt,
            lease_until: delivery.lease_until,
            position: delivery.position,
        };
        written += 1;
        if !list.push(|out| render::with_event(out, &item, Some(&delivery.event)))? {
            break;
        }
    }
    Ok((list.finish(), written))
}
