//! The Prometheus text of every metric, under the `fanfare_` names and, for programs that watch
//! the older ones, under the `eventbroker_` names. Counting is `telemetry`'s.

use std::fmt::Write;

use super::{BUCKET_MICROS, Consuming, Counter, Forwarding, Histogram, Label, Labelled, Telemetry};
use crate::bus::Bus;

impl Bus {
    /// Every metric of this bus in the Prometheus text format.
    pub fn metrics(&self) -> String {
        let mut text = Text::default();
        let telemetry = self.telemetry();
        publishing(&mut text, telemetry, self.0.queue.len());
        subscriptions(&mut text, telemetry);
        forwardings(&mut text, telemetry);
        labelled(&mut text, telemetry);
        text.into_string()
    }
}

fn publishing(text: &mut Text, telemetry: &Telemetry, queue_size: usize) {
    let publishing = &telemetry.publishing;
    for (name, help, counter) in [
        (
            "fanfare_publish_duplicates_total",
            "Publishes that found their event there already.",
            &publishing.duplicates,
        ),
        (
            "fanfare_publish_failures_total",
            "Publishes that failed or whose outcome is not known.",
            &publishing.failures,
        ),
        (
            "fanfare_queue_full_total",
            "Times that try_publish answered full.",
            &publishing.queue_full,
        ),
        (
            "fanfare_queue_failures_total",
            "Queued events that could not be published.",
            &publishing.queue_failures,
        ),
    ] {
        text.family(name, "counter", help);
        text.sample(name, "", counter.get());
    }
    let name = "fanfare_publish_duration_seconds";
    text.family(
        name,
        "histogram",
        "How long the backend took for a publish.",
    );
    text.histogram(name, "", &publishing.duration);
    for name in ["fanfare_queue_size", "eventbroker_queue_size"] {
        text.family(name, "gauge", "Events in the queue of try_publish.");
        text.sample(name, "", queue_size);
    }
}

type Read = fn(&Consuming) -> u64;

/// Counters and gauges per subscription: name, kind, help, value.
const PER_SUBSCRIPTION: [(&str, &str, &str, Read); 10] = [
    (
        "fanfare_deliveries_total",
        "counter",
        "Deliveries received.",
        |c| c.received.get(),
    ),
    (
        "fanfare_settlements_refused_total",
        "counter",
        "Settlements refused because the lease was over or another settled before.",
        |c| c.refused.get(),
    ),
    (
        "fanfare_leases_lost_total",
        "counter",
        "Leases that ended although we tried to extend them.",
        |c| c.leases_lost.get(),
    ),
    (
        "fanfare_leases_extended_total",
        "counter",
        "Leases extended.",
        |c| c.extended.get(),
    ),
    (
        "fanfare_handler_panics_total",
        "counter",
        "Handlers that panicked.",
        |c| c.panics.get(),
    ),
    (
        "fanfare_handler_timeouts_total",
        "counter",
        "Handlers that ran out of time.",
        |c| c.timeouts.get(),
    ),
    (
        "fanfare_unhandled_total",
        "counter",
        "Events that no route matched.",
        |c| c.unhandled.get(),
    ),
    (
        "fanfare_receive_errors_total",
        "counter",
        "Failed attempts to reach the backend.",
        |c| c.errors.get(),
    ),
    (
        "fanfare_handlers_running",
        "gauge",
        "Handlers that run now.",
        |c| c.running.get(),
    ),
    (
        "fanfare_deliveries_held",
        "gauge",
        "Deliveries held: waiting to start, running, waiting to be settled.",
        |c| c.held.get(),
    ),
];

const OUTCOMES: [(&str, Read); 5] = [
    ("ack", |c| c.acknowledged.get()),
    ("retry", |c| c.retried.get()),
    ("dead_letter", |c| c.dead.get()),
    ("drop", |c| c.dropped.get()),
    ("release", |c| c.released.get()),
];

fn subscriptions(text: &mut Text, telemetry: &Telemetry) {
    let all = telemetry.consuming.lock().clone();
    let label = |name| format!("subscription=\"{}\"", escape(name));
    for (metric, kind, help, read) in PER_SUBSCRIPTION {
        text.family(metric, kind, help);
        for (name, consuming) in &all {
            text.sample(metric, &label(name.as_str()), read(consuming));
        }
    }
    let metric = "fanfare_settlements_total";
    text.family(metric, "counter", "Settlements that counted.");
    for (name, consuming) in &all {
        for (outcome, read) in OUTCOMES {
            let labels = format!("{},outcome=\"{outcome}\"", label(name.as_str()));
            text.sample(metric, &labels, read(consuming));
        }
    }
    let metric = "fanfare_handler_duration_seconds";
    text.family(metric, "histogram", "How long handlers ran.");
    for (name, consuming) in &all {
        text.histogram(metric, &label(name.as_str()), &consuming.duration);
    }
    let metric = "eventbroker_workers_active";
    text.family(metric, "gauge", "Handlers that run now.");
    text.sample(
        metric,
        "",
        all.iter().map(|(_, c)| c.running.get()).sum::<u64>(),
    );
}

type ReadForwarding = fn(&Forwarding) -> u64;

/// Counters per forwarding: name, help, value.
const PER_FORWARDING: [(&str, &str, ReadForwarding); 4] = [
    (
        "fanfare_forwarded_total",
        "Events that the target has, the repeats included.",
        |f| f.forwarded.get(),
    ),
    (
        "fanfare_forward_duplicates_total",
        "Forwarded events that the target had already.",
        |f| f.duplicates.get(),
    ),
    (
        "fanfare_forward_failures_total",
        "Publishes on the target that failed and are repeated.",
        |f| f.failures.get(),
    ),
    (
        "fanfare_forward_refused_total",
        "Events that the target can never take, dead letters here.",
        |f| f.refused.get(),
    ),
];

fn forwardings(text: &mut Text, telemetry: &Telemetry) {
    let all = telemetry.forwarding.lock().clone();
    for (metric, help, read) in PER_FORWARDING {
        if all.is_empty() {
            return;
        }
        text.family(metric, "counter", help);
        for (name, forwarding) in &all {
            let label = format!("subscription=\"{}\"", escape(name.as_str()));
            text.sample(metric, &label, read(forwarding));
        }
    }
}

type Status = (&'static str, fn(&Labelled) -> &Counter);

const STATUSES: [Status; 3] = [
    ("completed", |l| &l.completed),
    ("retry", |l| &l.retried),
    ("failed", |l| &l.failed),
];

fn labelled(text: &mut Text, telemetry: &Telemetry) {
    let known = telemetry.labelled.load();
    let mut all: Vec<(Option<&Label>, &Labelled)> =
        known.iter().map(|(k, v)| (Some(k), &**v)).collect();
    all.sort_by_key(|(label, _)| *label);
    all.push((None, &telemetry.other));
    let labels = |label: Option<&Label>| match label {
        Some(l) => format!("source=\"{}\",type=\"{}\"", escape(&l.source), l.event_type),
        None => "source=\"other\",type=\"other\"".to_owned(),
    };
    for name in [
        "fanfare_events_published_total",
        "eventbroker_events_published_total",
    ] {
        text.family(name, "counter", "Events stored.");
        for (label, counters) in &all {
            text.sample(name, &labels(*label), counters.published.get());
        }
    }
    // What was only published here would fill the text with zeros.
    all.retain(|(_, counters)| STATUSES.iter().any(|(_, read)| read(counters).get() > 0));
    for name in [
        "fanfare_events_processed_total",
        "eventbroker_events_processed_total",
    ] {
        text.family(name, "counter", "Deliveries by how their attempt ended.");
        for (label, counters) in &all {
            for (status, read) in STATUSES {
                let labels = format!("{},status=\"{status}\"", labels(*label));
                text.sample(name, &labels, read(counters).get());
            }
        }
    }
    for name in [
        "fanfare_event_processing_duration_seconds",
        "eventbroker_event_processing_duration_seconds",
    ] {
        text.family(
            name,
            "histogram",
            "How long handlers ran, by source and type.",
        );
        for (label, counters) in &all {
            text.histogram(name, &labels(*label), &counters.duration);
        }
    }
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// The text as it grows. Writing to a `String` cannot fail, so those results are not looked at.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn into_string(self) -> String {
        self.0
    }

    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(super) fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }

    fn histogram(&mut self, name: &str, labels: &str, histogram: &Histogram) {
        let comma = if labels.is_empty() { "" } else { "," };
        let bucket = format!("{name}_bucket");
        let bounds = BUCKET_MICROS.iter().map(|micros| seconds(*micros));
        let mut count = 0;
        for (bound, n) in bounds.chain(["+Inf".to_owned()]).zip(histogram.buckets()) {
            count += n;
            self.sample(&bucket, &format!("{labels}{comma}le=\"{bound}\""), count);
        }
        self.sample(
            &format!("{name}_sum"),
            labels,
            histogram.sum().as_secs_f64(),
        );
        self.sample(&format!("{name}_count"), labels, count);
    }
}

fn seconds(micros: u64) -> String {
    std::time::Duration::from_micros(micros)
        .as_secs_f64()
        .to_string()
}
