//! What the campaigns of one backend came to, as a JSON file that is committed. Each kind of fault has its
//! entry, which the next campaign of that kind replaces; the others stay.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::broker::Engine;
use super::fault::Fault;
use super::progress::{Spread, Tally};
use crate::{Result, command};

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Results {
    backend: String,
    /// The version of the broker and how it keeps what it acknowledges.
    broker: Option<String>,
    setting: Option<String>,
    faults: BTreeMap<String, Value>,
}

/// Writes the tally of `fault` into the file.
pub(super) fn write(file: &Path, backend: &str, fault: Fault, tally: &Tally) -> Result {
    let mut results: Results = match fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(_) => Results::default(),
    };
    results.backend = backend.into();
    if let Some(engine) = Engine::of(backend) {
        results.broker = Some((engine.version)()?);
        results.setting = Some(engine.setting.into());
    }
    let entry = entry(fault, tally);
    results.faults.insert(fault.word().into(), entry);
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    let text = serde_json::to_string_pretty(&results)?;
    Ok(fs::write(file, text + "\n")?)
}

fn entry(fault: Fault, tally: &Tally) -> Value {
    let [publish, settlement, pull] = tally.longest_calls.map(|micros| micros / 1_000);
    let recovery = if tally.publishing.is_empty() {
        json!({ "first_answer": Spread::of(&tally.recoveries) })
    } else {
        json!({
            "all_publish": Spread::of(&tally.publishing),
            "all_deliver": Spread::of(&tally.delivering),
        })
    };
    json!({
        "what": fault.to_string(),
        "commit": commit(),
        "landed": tally.landed,
        "beside": tally.beside,
        "broker_died": tally.broker_died,
        "rounds": tally.rounds,
        "in_flight": {
            "publishes": tally.publishes_in_flight,
            "settlements": tally.settlements_in_flight,
        },
        "events": {
            "acknowledged": tally.acknowledged,
            "lost": tally.lost,
            "invented": tally.invented,
            "in_doubt_and_kept": tally.kept_in_doubt,
            "answered_as_duplicates": tally.duplicates,
        },
        "deliveries": { "all": tally.deliveries, "again": tally.redelivered, "doubled": tally.copies },
        "recovery_ms": recovery,
        "longest_call_ms": { "publish": publish, "settlement": settlement, "pull": pull },
        "breaches": tally.breaches,
    })
}

fn commit() -> String {
    let mut git = Command::new("git");
    git.args(["rev-parse", "--short", "HEAD"])
        .current_dir(crate::root());
    let name = command::output(git);
    name.map_or_else(|_| "unknown".into(), |name| name.trim().to_owned())
}
