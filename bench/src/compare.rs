//! Contenders that do the same work, run in turn so that a noisy minute hurts all alike, and the
//! table of their medians.

use std::pin::Pin;

use crate::Outcome;
use crate::measure::Sample;
use crate::report::{Report, grouped};

type Running = Pin<Box<dyn Future<Output = Outcome<Sample>>>>;

/// One row of the table: what runs, and how.
pub(crate) struct Contender<'a> {
    name: &'static str,
    run: Box<dyn Fn() -> Running + 'a>,
}

impl<'a> Contender<'a> {
    pub(crate) fn new<F>(name: &'static str, run: impl Fn() -> F + 'a) -> Self
    where
        F: Future<Output = Outcome<Sample>> + 'static,
    {
        Self {
            name,
            run: Box::new(move || Box::pin(run())),
        }
    }
}

/// Runs every contender `repetitions` times in turn; the first is what the others are measured by.
pub(crate) async fn compare(
    report: &mut Report,
    title: &str,
    repetitions: usize,
    contenders: &[Contender<'_>],
) -> Outcome<()> {
    let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..repetitions.max(1) {
        for (contender, samples) in contenders.iter().zip(&mut samples) {
            samples.push((contender.run)().await?);
        }
    }
    let mut floor = None;
    let mut rows = Vec::new();
    for (contender, samples) in contenders.iter().zip(&mut samples) {
        samples.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
        let floor = *floor.get_or_insert_with(|| median(samples));
        rows.push(row(contender.name, samples, floor));
    }
    report.say(&format!("**{title}**"));
    let head = [
        "",
        "events/s",
        "min",
        "max",
        "ratio",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "CPU us/event",
    ];
    report.table(&head, &rows);
    Ok(())
}

fn median(samples: &[Sample]) -> f64 {
    samples.get(samples.len() / 2).map_or(0.0, Sample::rate)
}

fn row(name: &str, samples: &[Sample], floor: f64) -> Vec<String> {
    let rate = median(samples);
    let mut all = crate::measure::latencies();
    for sample in samples {
        // The same bounds on both sides: adding cannot fail.
        let _ = all.add(&sample.latencies);
    }
    let percentile = |p: f64| match all.len() {
        0 => "-".to_owned(),
        _ => format!("{:.0}", all.value_at_percentile(p) as f64 / 1e3),
    };
    let cpu = samples
        .get(samples.len() / 2)
        .map_or(0.0, Sample::cpu_per_event);
    vec![
        name.to_owned(),
        grouped(rate),
        grouped(samples.first().map_or(0.0, Sample::rate)),
        grouped(samples.last().map_or(0.0, Sample::rate)),
        format!("{:.2}", rate / floor),
        percentile(50.0),
        percentile(99.0),
        percentile(99.9),
        format!("{cpu:.2}"),
    ]
}
