//! The Prometheus text of what only the backend knows: what the stream holds and how far its
//! subscriptions are. Asked for at each scrape, never counted here.

use fanfare_core::admin::SubscriptionInfo;

use super::render::Text;
use crate::bus::Bus;

impl Bus {
    /// Every metric of the backend in the Prometheus text format. Where the backend fails, what it
    /// could not say is left out.
    pub async fn backend_metrics(&self) -> String {
        let mut text = Text::default();
        let admin = self.backend().admin();
        let up = admin.health().await.ok;
        gauge(
            &mut text,
            "fanfare_backend_up",
            "Whether the backend works.",
            u64::from(up),
        );
        if let Ok(stream) = admin.stats().await {
            gauge(
                &mut text,
                "fanfare_log_events",
                "Events kept.",
                stream.events,
            );
            gauge(&mut text, "fanfare_log_bytes", "Bytes kept.", stream.bytes);
        }
        if let Ok(all) = admin.list().await {
            subscriptions(&mut text, self, &all);
        }
        text.into_string()
    }
}

type Read = fn(&SubscriptionInfo) -> u64;

/// Gauges per subscription: name, help, value.
const PER_SUBSCRIPTION: [(&str, &str, Read); 4] = [
    (
        "fanfare_subscription_waiting",
        "Events not leased yet, waiting for a retry, or behind their key.",
        |info| info.counts.waiting,
    ),
    (
        "fanfare_subscription_in_flight",
        "Deliveries leased now.",
        |info| info.counts.in_flight,
    ),
    ("fanfare_subscription_dead", "Dead letters now.", |info| {
        info.counts.dead
    }),
    (
        "fanfare_subscription_paused",
        "Whether the subscription is paused.",
        |info| u64::from(info.paused),
    ),
];

fn subscriptions(text: &mut Text, bus: &Bus, all: &[SubscriptionInfo]) {
    // Names of subscriptions need no escapes.
    let labels = |info: &SubscriptionInfo| format!("subscription=\"{}\"", info.spec.name);
    for (name, help, read) in PER_SUBSCRIPTION {
        text.family(name, "gauge", help);
        for info in all {
            text.sample(name, &labels(info), read(info));
        }
    }
    let name = "fanfare_oldest_unsettled_age_seconds";
    text.family(name, "gauge", "Age of the oldest unsettled event.");
    let now = bus.clock().now();
    for info in all {
        let age = info.oldest_unsettled.map(|oldest| now.since(oldest));
        text.sample(name, &labels(info), age.unwrap_or_default().as_secs_f64());
    }
}

fn gauge(text: &mut Text, name: &str, help: &str, value: u64) {
    text.family(name, "gauge", help);
    text.sample(name, "", value);
}
