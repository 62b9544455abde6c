//! The suite on trial: every saboteur must be caught by every case that claims to catch it, and a
//! backend that nobody sabotages must pass behind the same wrapper.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fanfare_conformance::{Options, PROMISES, Target, cases, saboteur};
use fanfare_core::Result;
use fanfare_core::backend::Backend;
use fanfare_memory::{MemoryBackend, MemoryConfig};

#[derive(Debug)]
struct Memory;

#[async_trait]
impl Target for Memory {
    fn name(&self) -> String {
        "memory".into()
    }

    async fn open(&self, _stream: &str) -> Result<Arc<dyn Backend>> {
        Ok(MemoryBackend::open(MemoryConfig::default()))
    }

    async fn open_bounded(&self, _stream: &str, bytes: u64) -> Option<Result<Arc<dyn Backend>>> {
        let config = MemoryConfig {
            max_bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
            ..MemoryConfig::default()
        };
        Some(Ok(MemoryBackend::open(config)))
    }
}

/// A case waits less for what never comes than it does for a real backend.
fn impatient() -> Options {
    Options {
        patience: Duration::from_secs(5),
        case_limit: Duration::from_secs(15),
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_saboteur_is_caught_by_every_case_that_claims_to() {
    let mut escaped = Vec::new();
    for (saboteur, report) in saboteur::trials(Arc::new(Memory), &impatient(), 16).await {
        let caught: BTreeSet<_> = report
            .failures()
            .map(|case| format!("{}::{}", case.topic, case.name))
            .collect();
        for case in saboteur.caught_by {
            if !caught.contains(*case) {
                escaped.push(format!("{} was not caught by {case}", saboteur.name));
            }
        }
    }
    assert!(escaped.is_empty(), "{}", escaped.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_passes_every_case() {
    let [all, played] = saboteur::untouched(Arc::new(Memory), &impatient()).await;
    assert_eq!((all.failed, played.failed), (0, 0), "{all}{played}");
    assert_eq!(played.not_offered, 0, "{played}");
}

#[test]
fn every_promise_has_cases_and_every_case_a_saboteur() {
    let names: BTreeSet<_> = cases()
        .map(|c| format!("{}::{}", c.topic, c.name))
        .collect();
    let saboteurs = saboteur::all();
    let caught: BTreeSet<_> = saboteurs
        .iter()
        .flat_map(|s| s.caught_by.iter().map(ToString::to_string))
        .collect();
    let unknown: Vec<_> = caught.difference(&names).collect();
    assert!(
        unknown.is_empty(),
        "saboteurs name cases that do not exist: {unknown:?}"
    );
    // These try the bus itself, which no backend can sabotage.
    let of_the_bus = ["enqueue::", "wait::", "drain::"];
    let untried: Vec<_> = names
        .difference(&caught)
        .filter(|name| !of_the_bus.iter().any(|topic| name.starts_with(topic)))
        .collect();
    assert!(
        untried.is_empty(),
        "cases that no saboteur tries: {untried:#?}"
    );
    for promise in PROMISES {
        let checked = cases().any(|case| case.promise == promise.number);
        let sabotaged = saboteurs.iter().any(|s| s.promise == promise.number);
        let planned = promise.planned.is_some();
        assert_eq!(checked, !planned, "cases of promise {}", promise.number);
        assert_eq!(
            sabotaged, !planned,
            "saboteurs of promise {}",
            promise.number
        );
    }
}
