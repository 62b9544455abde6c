//! An event's whole life over HTTP and the command line: three subscriptions on one import, of which
//! one fails every seventh event for good and one fails each event once.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::process::Server;

const EVENTS: u64 = 180;

/// One member of a subscription.
struct Member<'a> {
    server: &'a Server,
    subscription: &'a str,
}

impl Member<'_> {
    /// Takes what is there or becomes due soon; empty when nothing more comes.
    fn pull(&self) -> Vec<Value> {
        let path = format!("/v1/subscriptions/{}/pull", self.subscription);
        let pulled = self.server.post(&path, &json!({ "max": 50, "wait": "1s" }));
        pulled["deliveries"].as_array().unwrap().clone()
    }

    /// Handles everything until nothing more comes; answers the attempts that each event took.
    fn work(&self, outcome: impl Fn(u64, u64) -> Value) -> BTreeMap<u64, u64> {
        let mut attempts = BTreeMap::new();
        loop {
            let deliveries = self.pull();
            if deliveries.is_empty() {
                return attempts;
            }
            let settle = |delivery: &Value| {
                let n = delivery["event"]["data"].as_u64().unwrap();
                let attempt = delivery["attempt"].as_u64().unwrap();
                let mut settlement = outcome(n, attempt);
                settlement["delivery"] = delivery["delivery"].clone();
                (n, attempt, settlement)
            };
            let settled: Vec<_> = deliveries.iter().map(settle).collect();
            let list: Vec<_> = settled.iter().map(|(_, _, s)| s.clone()).collect();
            let path = format!("/v1/subscriptions/{}/settle", self.subscription);
            let answer = self.server.post(&path, &json!({ "settlements": list }));
            assert!(!answer.to_string().contains("\"ok\":false"), "{answer}");
            attempts.extend(settled.iter().map(|(n, attempt, _)| (*n, *attempt)));
            self.server.run(&["audit"]).ok();
        }
    }
}

fn ack(_: u64, _: u64) -> Value {
    json!({ "outcome": "ack" })
}

#[test]
fn retries_dead_letters_and_redrive_come_out_even() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on_disk(dir.path());
    for name in ["steady", "seventh", "once"] {
        let create = ["subscriptions", "create", name, "n.*"];
        let policy = ["--max-attempts", "3", "--retry-initial", "100ms"];
        server.run(&[&create[..], &policy[..]].concat()).ok();
    }
    let lines = (1..=EVENTS).fold(String::new(), |all, n| {
        all + &format!("{{\"type\":\"n.n\",\"data\":{n}}}\n")
    });
    let imported = server.run_with_input(&["import", "-"], &lines).ok();
    assert_eq!(imported, "180 stored, 0 duplicates\n");
    let member = |subscription| Member {
        server: &server,
        subscription,
    };

    let steady = member("steady").work(ack);
    assert!(steady.len() == 180 && steady.values().all(|attempt| *attempt == 1));

    let once = member("once").work(|_, attempt| match attempt {
        1 => json!({ "outcome": "retry", "retry_after": "200ms", "reason": "the first is free" }),
        _ => json!({ "outcome": "ack" }),
    });
    assert!(once.len() == 180 && once.values().all(|attempt| *attempt == 2));

    let seventh = member("seventh").work(|n, _| match n % 7 {
        0 => json!({ "outcome": "retry", "reason": "it is a seventh" }),
        _ => json!({ "outcome": "ack" }),
    });
    assert!(
        seventh
            .iter()
            .all(|(n, attempt)| *attempt == if n % 7 == 0 { 3 } else { 1 })
    );

    let letters = server.run(&["dead-letters", "list", "--json"]).objects();
    let mut dead: Vec<_> = letters
        .iter()
        .map(|letter| letter["event"]["data"].as_u64().unwrap())
        .collect();
    dead.sort_unstable();
    let sevenths: Vec<_> = (1..=EVENTS).filter(|n| n % 7 == 0).collect();
    assert_eq!(dead, sevenths);
    assert!(
        letters
            .iter()
            .all(|letter| letter["subscription"] == "seventh")
    );
    assert!(letters.iter().all(|letter| letter["attempts"] == 3));

    let redrive = ["dead-letters", "redrive", "--all", "--rate", "50"];
    assert_eq!(server.run(&redrive).ok(), "25 matched, 25 redriven\n");
    let redriven = member("seventh").work(ack);
    assert_eq!(redriven.keys().copied().collect::<Vec<_>>(), sevenths);
    assert!(redriven.values().all(|attempt| *attempt == 1));
    assert_eq!(server.run(&["dead-letters", "list", "--json"]).ok(), "");

    let audit = server.run(&["audit", "--json"]).objects();
    for audited in audit[0]["subscriptions"].as_array().unwrap() {
        assert_eq!(audited["published"], EVENTS, "{audited}");
        assert_eq!(audited["acknowledged"], EVENTS, "{audited}");
    }
}
