//! What operators see.

use std::collections::HashSet;
use std::time::Duration;

use fanfare_core::event::Event;

use crate::harness::{bus, event, until, within};

#[tokio::test]
async fn every_sample_belongs_to_a_family_and_the_older_names_are_there() {
    let (bus, _) = bus();
    let subscription = bus.subscribe("s", "*").handle(|| async {}).await.unwrap();
    let odd = event("orders.placed").source("/shop");
    for event in [event("a"), event("a"), odd] {
        bus.publish(event).await.unwrap();
    }
    until(|| subscription.stats().acknowledged == 3).await;
    let text = bus.metrics();
    let families: HashSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name);
        assert!(families.contains(family), "{line}");
        assert!(
            line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(),
            "{line}"
        );
    }
    for line in [
        "fanfare_events_published_total{source=\"/\",type=\"a\"} 2",
        "fanfare_events_published_total{source=\"/shop\",type=\"orders.placed\"} 1",
        "eventbroker_events_processed_total{source=\"/\",type=\"a\",status=\"completed\"} 2",
        "eventbroker_event_processing_duration_seconds_count{source=\"/\",type=\"a\"} 2",
        "fanfare_settlements_total{subscription=\"s\",outcome=\"ack\"} 3",
        "fanfare_handler_duration_seconds_bucket{subscription=\"s\",le=\"+Inf\"} 3",
        "eventbroker_queue_size 0",
        "eventbroker_workers_active 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn labels_are_bounded() {
    let clock = crate::harness::clock();
    let limits = fanfare_bus::Limits {
        label_sets: 3,
        ..fanfare_bus::Limits::default()
    };
    let bus = fanfare_bus::Bus::builder(crate::harness::backend(&clock))
        .clock(clock)
        .limits(limits)
        .build()
        .unwrap();
    for n in 0..10 {
        bus.publish(event(&format!("type{n}"))).await.unwrap();
    }
    let text = bus.metrics();
    let published = |line: &&str| line.starts_with("fanfare_events_published_total{");
    assert_eq!(text.lines().filter(published).count(), 4);
    assert!(text.contains("fanfare_events_published_total{source=\"other\",type=\"other\"} 7"));
}

#[tokio::test]
async fn health_tells_the_phase_and_the_backend() {
    let (bus, _) = bus();
    let health = bus.health().await;
    assert!(health.ok && health.phase == "running", "{health:?}");
    bus.backend().close().await.unwrap();
    assert!(!bus.health().await.ok);
    within(bus.shutdown(Duration::ZERO)).await.unwrap();
    assert_eq!(bus.health().await.phase, "closed");
}

#[tokio::test]
async fn payloads_never_reach_debug_output() {
    let (bus, _) = bus();
    let (tx, mut shown) = crate::harness::seen();
    bus.subscribe("s", "*")
        .handle(
            move |request: fanfare_bus::handler::Request, event: Event| {
                let tx = tx.clone();
                async move { tx.send(format!("{request:?} {event:?}")).await.unwrap() }
            },
        )
        .await
        .unwrap();
    let secret = event("a").data(fanfare_core::data::Data::json("\"password\""));
    bus.publish(secret).await.unwrap();
    assert!(!shown.next().await.contains("password"));
}
