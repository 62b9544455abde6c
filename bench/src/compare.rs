//! Contenders that do the same work, run in turn so that a noisy minute hurts all alike, and the
//! table of their medians.

use std::pin::Pin;

use crate::Outcome;
use crate::measure::{Sample, latencies};
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
    if !report.wants(title) {
        return Ok(());
    }
    let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..repetitions.max(1) {
        for (contender, samples) in contenders.iter().zip(&mut samples) {
            samples.push((contender.run)().await?);
        }
    }
    let mut rows = Vec::new();
    for (contender, own) in contenders.iter().zip(&samples) {
        let ratio = samples.first().map_or(1.0, |floor| ratio(own, floor));
        rows.push(row(contender.name, own, ratio));
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

/// The median over the repetitions of how fast one was against the floor beside it: a minute in
/// which the machine was busy slows both.
fn ratio(own: &[Sample], floor: &[Sample]) -> f64 {
    let pairs = own.iter().zip(floor);
    middle(
        pairs
            .map(|(own, floor)| own.rate() / floor.rate())
            .collect(),
    )
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(0.0);
    let half = values.len() / 2;
    match values.len() % 2 {
        0 => f64::midpoint(at(half.saturating_sub(1)), at(half)),
        _ => at(half),
    }
}

fn row(name: &str, samples: &[Sample], ratio: f64) -> Vec<String> {
    let mut all = latencies();
    for nanos in samples
        .iter()
        .flat_map(|sample| sample.latencies.iter().flatten())
    {
        all.saturating_record(*nanos);
    }
    let percentile = |p: f64| match all.len() {
        0 => "-".to_owned(),
        _ => format!("{:.0}", all.value_at_percentile(p) as f64 / 1e3),
    };
    let rates: Vec<f64> = samples.iter().map(Sample::rate).collect();
    let cpu = middle(samples.iter().map(Sample::cpu_per_event).collect());
    vec![
        name.to_owned(),
        grouped(middle(rates.clone())),
        grouped(rates.iter().copied().fold(f64::INFINITY, f64::min)),
        grouped(rates.iter().copied().fold(0.0, f64::max)),
        format!("{ratio:.2}"),
        percentile(50.0),
        percentile(99.0),
        percentile(99.9),
        format!("{cpu:.2}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::middle;

    #[test]
    fn of_an_even_number_neither_half_is_preferred() {
        assert!((middle(vec![3.0, 1.0]) - 2.0).abs() < 1e-9);
        assert!((middle(vec![9.0, 1.0, 3.0]) - 3.0).abs() < 1e-9);
        assert!(middle(Vec::new()).abs() < 1e-9);
    }
}
