//! Matching one event type against 100 and against 100,000 patterns that match as often.

use std::hint::black_box;

use fanfare::core::event_type::EventType;
use fanfare::core::pattern::Pattern;
use fanfare::core::pattern_index::PatternIndex;

use crate::measure::{Watch, latencies};
use crate::report::{Report, grouped};
use crate::{Options, load};

/// How many event types are looked up; each matches four patterns.
const TYPES: usize = 1_000;
/// Look-ups of all types in one repetition.
const ROUNDS: usize = 100;

pub(crate) fn run(options: &Options, report: &mut Report) {
    report.section("Patterns");
    let mut rows = Vec::new();
    let mut floor = None;
    for count in [100, 1_000, 10_000, 100_000] {
        let index = index(count);
        // The same number of look-ups and of matches, spread over as many patterns as there are.
        let types: Vec<EventType> = (0..TYPES)
            .map(|n| event_type(n * 7_919 % (count / 20)))
            .collect();
        let mut found = 0_u64;
        let mut taken = latencies();
        for _ in 0..options.repetitions.max(1) * options.events(ROUNDS) {
            let watch = Watch::start();
            for event_type in &types {
                index.matches(event_type, |value| found += u64::from(*value != u32::MAX));
            }
            taken.saturating_record(load::nanos(watch));
        }
        let lookups = taken.len() as f64 * TYPES as f64;
        let nanos = taken.value_at_percentile(50.0) as f64 / TYPES as f64;
        let floor = *floor.get_or_insert(nanos);
        rows.push(vec![
            grouped(count as f64),
            format!("{:.2}", black_box(found) as f64 / lookups),
            format!("{nanos:.0}"),
            format!("{:.2}", nanos / floor),
        ]);
    }
    report.say(
        "80 % exact, 15 % with one `*`, 5 % ending in `**`; random event types of three segments.",
    );
    report.table(
        &["patterns", "matches", "ns per event type", "ratio"],
        &rows,
    );
}

/// For every 20 patterns one entity: 16 exact, 3 with one `*`, 1 ending in `**`.
fn index(count: usize) -> PatternIndex<u32> {
    let mut index = PatternIndex::new();
    let mut value = 0;
    let mut add = |text: String| {
        if let Ok(pattern) = Pattern::parse(&text) {
            index.insert(&pattern, value);
            value += 1;
        }
    };
    for entity in 0..count / 20 {
        for operation in 0..16 {
            add(format!(
                "tenant{}.entity{entity}.operation{operation}",
                entity % 50
            ));
        }
        add(format!("*.entity{entity}.operation0"));
        add(format!("tenant{}.entity{entity}.*", entity % 50));
        add(format!("tenant{}.*.special{entity}", entity % 50));
        add(format!("tenant{}.entity{entity}.**", entity % 50));
    }
    index
}

fn event_type(entity: usize) -> EventType {
    let text = format!("tenant{}.entity{entity}.operation0", entity % 50);
    // The grammar is kept by construction.
    EventType::parse(&text).unwrap_or_else(|_| unreachable!())
}
