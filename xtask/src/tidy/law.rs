//! The import law, read from the manifests: which of our crates may import which, and which foreign
//! crates stay at home.

use serde_json::Value;

use crate::{Result, command};

/// Each crate of ours, what it may import of ours, and what its tests may import besides.
const LAW: [(&str, &[&str], &[&str]); 17] = [
    ("fanfare-core", &[], &[]),
    ("fanfare-macros", &[], &[]),
    ("fanfare-cursor", &["fanfare-core"], &[]),
    (
        "fanfare-memory",
        &["fanfare-core", "fanfare-cursor"],
        &["fanfare-conformance", "fanfare-bus"],
    ),
    (
        "fanfare-sqlite",
        &["fanfare-core", "fanfare-cursor"],
        &["fanfare-conformance", "fanfare-bus"],
    ),
    ("fanfare-fleet", &["fanfare-core"], &[]),
    (
        "fanfare-redis",
        &["fanfare-core", "fanfare-cursor", "fanfare-fleet"],
        &["fanfare-conformance"],
    ),
    (
        "fanfare-postgres",
        &["fanfare-core", "fanfare-fleet"],
        &["fanfare-conformance"],
    ),
    (
        "fanfare-amqp",
        &["fanfare-core", "fanfare-cursor"],
        &["fanfare-conformance"],
    ),
    (
        "fanfare-nats",
        &["fanfare-core", "fanfare-cursor", "fanfare-fleet"],
        &["fanfare-conformance"],
    ),
    (
        "fanfare-bus",
        &["fanfare-core", "fanfare-macros"],
        &["fanfare-memory"],
    ),
    (
        "fanfare-conformance",
        &["fanfare-core", "fanfare-bus"],
        &["fanfare-memory"],
    ),
    (
        "fanfare",
        &[
            "fanfare-core",
            "fanfare-amqp",
            "fanfare-bus",
            "fanfare-macros",
            "fanfare-memory",
            "fanfare-nats",
            "fanfare-postgres",
            "fanfare-redis",
            "fanfare-sqlite",
        ],
        &["fanfare-conformance"],
    ),
    // Conformance in tests, for its private brokers.
    ("fanfare-server", &["fanfare"], &["fanfare-conformance"]),
    (
        "fanfare-cli",
        &["fanfare", "fanfare-server", "fanfare-conformance"],
        &[],
    ),
    // Conformance for its private brokers: those of the tests and of the figures are the same.
    ("fanfare-bench", &["fanfare", "fanfare-conformance"], &[]),
    ("xtask", &[], &[]),
];

/// What an example may import of ours, and its tests besides: it is an application, and sees what
/// applications see. It may use any foreign crate.
const EXAMPLE: (&[&str], &[&str]) = (&["fanfare"], &["fanfare-conformance"]);

/// Foreign crates that only some of ours may know: below the server nobody speaks HTTP, and only
/// one backend speaks SQL to SQLite. Tests may.
const HOMES: [(&str, &[&str]); 13] = [
    ("async-nats", &["fanfare-nats", "fanfare-bench"]),
    ("axum", &["fanfare-server"]),
    ("hyper", &["fanfare-server"]),
    ("hyper-util", &["fanfare-server"]),
    ("tower-http", &["fanfare-server"]),
    ("reqwest", &["fanfare-cli"]),
    ("clap", &["fanfare-cli", "fanfare-bench"]),
    ("lapin", &["fanfare-amqp", "fanfare-bench"]),
    ("redis", &["fanfare-redis", "fanfare-bench"]),
    ("deadpool-postgres", &["fanfare-postgres"]),
    ("tokio-postgres", &["fanfare-postgres", "fanfare-bench"]),
    ("sqlx", &["fanfare-postgres"]),
    ("rusqlite", &["fanfare-sqlite", "fanfare-bench"]),
];

pub(super) fn check() -> Result<Vec<String>> {
    let metadata = command::cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&command::output(metadata)?)?;
    Ok(breaches(&metadata))
}

fn breaches(metadata: &Value) -> Vec<String> {
    let mut breaches = Vec::new();
    for package in items(&metadata["packages"]) {
        let name = text(&package["name"]);
        let example = text(&package["manifest_path"]).contains("/examples/");
        let law = LAW.iter().find(|(known, ..)| *known == name);
        let law = law.map(|(_, normal, dev)| (*normal, *dev));
        let Some((normal, dev)) = law.or(example.then_some(EXAMPLE)) else {
            breaches.push(format!("{name}: the import law does not know this crate"));
            continue;
        };
        for dependency in items(&package["dependencies"]) {
            let (to, kind) = (text(&dependency["name"]), text(&dependency["kind"]));
            // Its own tests may ask for one of its own features.
            let in_tests = kind == "dev" && (dev.contains(&to) || to == name);
            let allowed = in_tests || normal.contains(&to);
            let kind = if kind.is_empty() { "normal" } else { kind };
            let home = HOMES.iter().find(|(foreign, _)| *foreign == to);
            if kind == "normal" && !example && home.is_some_and(|(_, ours)| !ours.contains(&name)) {
                breaches.push(format!("{name}: {to} is not for this crate"));
            }
            if !dependency["path"].is_null() && !allowed {
                breaches.push(format!("{name}: may not import {to} ({kind} dependency)"));
            }
        }
    }
    breaches
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_upward_import_is_found() {
        let package = |to: &str, kind: Value| {
            json!({"packages": [{"name": "fanfare-memory", "dependencies": [
                {"name": to, "kind": kind, "path": "/somewhere"},
                {"name": "serde", "kind": null},
            ]}]})
        };
        assert_eq!(breaches(&package("fanfare-core", Value::Null)).len(), 0);
        assert_eq!(breaches(&package("fanfare-bus", Value::Null)).len(), 1);
        assert_eq!(
            breaches(&package("fanfare-conformance", json!("dev"))).len(),
            0
        );
        assert_eq!(
            breaches(&package("fanfare-conformance", Value::Null)).len(),
            1
        );
        let stranger = json!({"packages": [{"name": "fanfare-new", "dependencies": []}]});
        assert_eq!(breaches(&stranger).len(), 1);
    }

    #[test]
    fn an_example_sees_the_facade_alone() {
        let package = |to: &str, kind: Value| {
            json!({"packages": [{
                "name": "shop",
                "manifest_path": "/fanfare/examples/shop/Cargo.toml",
                "dependencies": [
                    {"name": to, "kind": kind, "path": "/somewhere"},
                    {"name": "axum", "kind": null},
                ],
            }]})
        };
        assert_eq!(breaches(&package("fanfare", Value::Null)).len(), 0);
        assert_eq!(breaches(&package("fanfare-bus", Value::Null)).len(), 1);
        let conformance = |kind| breaches(&package("fanfare-conformance", kind)).len();
        assert_eq!(
            (conformance(json!("dev")), conformance(Value::Null)),
            (0, 1)
        );
    }

    #[test]
    fn a_foreign_crate_away_from_its_home_is_found() {
        let package = |name: &str, kind: Value| {
            let dependencies = json!([{"name": "axum", "kind": kind}]);
            json!({"packages": [{"name": name, "dependencies": dependencies}]})
        };
        assert_eq!(breaches(&package("fanfare-server", Value::Null)).len(), 0);
        assert_eq!(breaches(&package("fanfare-bus", Value::Null)).len(), 1);
        assert_eq!(breaches(&package("fanfare-bus", json!("dev"))).len(), 0);
    }
}
