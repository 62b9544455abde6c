//! One event through each of its forms, beside the least that serde_json can do with the same text.

use std::borrow::Cow;
use std::hint::black_box;

use fanfare::core::cloudevents::{from_json, http, write_json};
use fanfare::core::event::Event;
use fanfare::core::record;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::measure::{Watch, latencies};
use crate::report::Report;
use crate::{Options, Outcome, load};

/// Events in one measured round.
const ROUND: usize = 1_000;
/// Rounds of one repetition.
const ROUNDS: usize = 100;

/// Every member borrowed, nothing checked, nothing kept.
#[derive(Serialize, Deserialize)]
struct Borrowed<'a> {
    #[serde(borrow)]
    specversion: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    datacontenttype: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

pub(crate) fn run(options: &Options, report: &mut Report) -> Outcome<()> {
    report.section("Forms: one event of 256 bytes of data");
    let event = load::events(1)?.pop().ok_or("no event")?;
    let mut json = Vec::new();
    write_json(&event, &mut json);
    let borrowed: Borrowed<'_> = serde_json::from_slice(&json)?;
    let attributes = record::encode_attributes(&event);
    let (headers, body) = http::to_binary(&event);
    let mut out = Vec::with_capacity(4 * json.len());
    let mut rows = Vec::new();
    let mut add = |name: &str, nanos: f64| rows.push(vec![name.to_owned(), format!("{nanos:.0}")]);
    let took = |work: &mut dyn FnMut()| nanos(options, work);
    add(
        "serde_json, borrowed, read",
        took(&mut || {
            let _ = black_box(serde_json::from_slice::<Borrowed<'_>>(black_box(&json)));
        }),
    );
    add(
        "CloudEvents JSON, read",
        took(&mut || {
            let _ = black_box(from_json(black_box(&json)));
        }),
    );
    add(
        "serde_json, borrowed, write",
        took(&mut || {
            out.clear();
            let _ = serde_json::to_writer(&mut out, black_box(&borrowed));
        }),
    );
    add(
        "CloudEvents JSON, write",
        took(&mut || {
            out.clear();
            write_json(black_box(&event), &mut out);
        }),
    );
    add(
        "HTTP binary, read",
        took(&mut || {
            let pairs = headers.iter().map(|(name, value)| (name, value));
            let _ = black_box(http::from_binary(pairs, black_box(&body)));
        }),
    );
    add(
        "HTTP binary, write",
        took(&mut || {
            black_box(http::to_binary(black_box(&event)));
        }),
    );
    add(
        "record, read",
        took(&mut || {
            let _ = black_box(decode(black_box(&event), &attributes));
        }),
    );
    add(
        "record, write",
        took(&mut || {
            out.clear();
            record::write_attributes(black_box(&event), &mut out);
        }),
    );
    report.table(&["form", "ns per event"], &rows);
    Ok(())
}

fn decode(event: &Event, attributes: &[u8]) -> fanfare::core::Result<Event> {
    record::decode(
        event.id().clone(),
        event.source().clone(),
        event.event_type().clone(),
        attributes,
        event
            .data()
            .map(|data| data.bytes().clone())
            .unwrap_or_default(),
    )
}

/// The median over all rounds.
fn nanos(options: &Options, work: &mut dyn FnMut()) -> f64 {
    let mut taken = latencies();
    for _ in 0..options.repetitions.max(1) * options.events(ROUNDS) {
        let watch = Watch::start();
        for _ in 0..ROUND {
            work();
        }
        taken.saturating_record(load::nanos(watch));
    }
    taken.value_at_percentile(50.0) as f64 / ROUND as f64
}
