//! The import law: floors of crates, from the manifests, and module cycles inside a crate, from
//! `crate::` paths.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Source;
use crate::{Result, command};

/// Each crate of ours, what it may import of ours, and what its tests may import besides.
const LAW: [(&str, &[&str], &[&str]); 12] = [
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
            "fanfare-bus",
            "fanfare-macros",
            "fanfare-memory",
            "fanfare-sqlite",
        ],
        &[],
    ),
    ("fanfare-server", &["fanfare"], &[]),
    (
        "fanfare-cli",
        &["fanfare", "fanfare-server", "fanfare-conformance"],
        &[],
    ),
    ("fanfare-bench", &["fanfare"], &[]),
    ("xtask", &[], &[]),
];

pub(super) fn check(sources: &[Source]) -> Result<Vec<String>> {
    let mut metadata = command::cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    // The lock file names everything, so no network is needed where it was there once.
    metadata.env("CARGO_TERM_QUIET", "true");
    let metadata: Value = serde_json::from_str(&command::output(metadata)?)?;
    let mut breaches = floors(&metadata);
    for root in crate_roots(sources) {
        breaches.extend(cycles(root, sources));
    }
    Ok(breaches)
}

fn floors(metadata: &Value) -> Vec<String> {
    let mut breaches = Vec::new();
    for package in items(&metadata["packages"]) {
        let name = text(&package["name"]);
        let Some((_, normal, dev)) = LAW.iter().find(|(known, ..)| *known == name) else {
            breaches.push(format!("{name}: the import law does not know this crate"));
            continue;
        };
        for dependency in items(&package["dependencies"]) {
            let (to, kind) = (text(&dependency["name"]), text(&dependency["kind"]));
            let allowed = normal.contains(&to) || (kind == "dev" && dev.contains(&to));
            if !dependency["path"].is_null() && !allowed {
                let kind = if kind.is_empty() { "normal" } else { kind };
                breaches.push(format!("{name}: may not import {to} ({kind} dependency)"));
            }
        }
    }
    breaches
}

/// `crates/bus/src/` and its like.
fn crate_roots(sources: &[Source]) -> BTreeSet<&str> {
    sources
        .iter()
        .filter_map(|source| {
            let end = source.path.find("/src/")? + "/src/".len();
            source.path.get(..end)
        })
        .collect()
}

/// Top-level modules of one crate that reach each other both ways, tests left out.
fn cycles(root: &str, sources: &[Source]) -> Vec<String> {
    let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in sources {
        let Some(inner) = source.path.strip_prefix(root) else {
            continue;
        };
        let module = inner.split('/').next().unwrap_or(inner);
        let module = module.trim_end_matches(".rs");
        if !matches!(module, "lib" | "main" | "bin") {
            uses.entry(module)
                .or_default()
                .extend(imports(&source.text));
        }
    }
    let mut breaches = Vec::new();
    for (from, direct) in &uses {
        for to in direct {
            if from < to && reaches(&uses, to, from) {
                breaches.push(format!(
                    "{root}: modules `{from}` and `{to}` import each other"
                ));
            }
        }
    }
    breaches
}

/// The modules named by `crate::x` outside comments and tests.
fn imports(text: &str) -> impl Iterator<Item = &str> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split("crate::").skip(1))
        .filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            rest.get(..end.unwrap_or(rest.len()))
        })
}

fn reaches<'a>(uses: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &'a str, to: &str) -> bool {
    let mut seen = BTreeSet::from([from]);
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        if module == to {
            return true;
        }
        let next = uses.get(module).into_iter().flatten();
        open.extend(next.filter(|module| seen.insert(**module)));
    }
    false
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
        assert_eq!(floors(&package("fanfare-core", Value::Null)).len(), 0);
        assert_eq!(floors(&package("fanfare-bus", Value::Null)).len(), 1);
        assert_eq!(
            floors(&package("fanfare-conformance", json!("dev"))).len(),
            0
        );
        assert_eq!(
            floors(&package("fanfare-conformance", Value::Null)).len(),
            1
        );
        let stranger = json!({"packages": [{"name": "fanfare-new", "dependencies": []}]});
        assert_eq!(floors(&stranger).len(), 1);
    }

    #[test]
    fn a_cycle_of_modules_is_found() {
        let file = |path: &str, text: &str| Source {
            path: path.into(),
            text: text.into(),
        };
        let up = file("a/src/up.rs", "//! Up.\nuse crate::down::Down;\n");
        let down = file("a/src/down.rs", "//! Down, see [`crate::up`].\n");
        let back = file(
            "a/src/down/deep.rs",
            "//! Deep.\nfn f(_: crate::up::Up) {}\n",
        );
        let sources = [up, down, back];
        assert_eq!(cycles("a/src/", &sources[..2]).len(), 0);
        assert_eq!(cycles("a/src/", &sources).len(), 1);
    }
}
