//! What we build on: every crate in the lock file has a licence that `deny.toml` allows, comes from
//! the registry, and is none that it bans. What cargo-deny knows besides, advisories, needs a network.

use std::process::Command;

use serde_json::Value;

use super::Source;
use crate::{Result, command};

const RULES: &str = "deny.toml";
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

pub(super) fn check(sources: &[Source]) -> Result<Vec<String>> {
    let rules = sources.iter().find(|source| source.path == RULES);
    let rules = rules.map_or("", |source| source.text.as_str());
    let host = host()?;
    let metadata = command::output(command::cargo(&[
        "metadata",
        "--locked",
        "--all-features",
        "--format-version",
        "1",
        "--filter-platform",
        &host,
    ]))?;
    Ok(breaches(rules, &serde_json::from_str(&metadata)?))
}

/// What this machine builds for: crates for other systems may not be here.
fn host() -> Result<String> {
    let mut rustc = Command::new("rustc");
    rustc.arg("-vV");
    let version = command::output(rustc)?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or("rustc does not name its host")?.to_owned())
}

fn breaches(rules: &str, metadata: &Value) -> Vec<String> {
    let allowed = quoted(section(rules, "allow = ["));
    let banned = quoted(section(rules, "deny = ["));
    let mut breaches = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let text = |member: &str| package[member].as_str().unwrap_or_default();
        let (name, source) = (text("name"), text("source"));
        if package["source"].is_null() {
            continue; // Ours.
        }
        if source != REGISTRY {
            breaches.push(format!("{name}: comes from {source}"));
        }
        if banned.contains(&name) {
            breaches.push(format!("{name}: {RULES} bans it"));
        }
        let licence = text("license");
        if !is_allowed(licence, &allowed) {
            breaches.push(format!("{name}: {RULES} does not allow `{licence}`"));
        }
    }
    breaches
}

/// From `opening` to the end of its list.
fn section<'a>(rules: &'a str, opening: &str) -> &'a str {
    let after = rules.split_once(opening).map_or("", |(_, after)| after);
    after.split_once("\n]").map_or(after, |(list, _)| list)
}

fn quoted(list: &str) -> Vec<&str> {
    list.split('"').skip(1).step_by(2).collect()
}

/// Whether one of the alternatives of an SPDX expression is allowed as a whole.
fn is_allowed(licence: &str, allowed: &[&str]) -> bool {
    let spaced = licence
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    either(&mut words, allowed) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let mut good = both(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        good |= both(words, allowed);
    }
    good
}

fn both(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let mut good = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        good &= one(words, allowed);
    }
    good
}

fn one(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let good = either(words, allowed);
        return words.next_if_eq(&")").is_some() && good;
    }
    let mut licence = words.next().unwrap_or_default().to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        licence = format!("{licence} WITH {}", words.next().unwrap_or_default());
    }
    allowed.contains(&licence.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_expression_is_allowed_when_one_alternative_is() {
        let allowed = ["MIT", "Apache-2.0 WITH LLVM-exception", "ISC"];
        for (licence, expected) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0/MIT", true),
            ("GPL-3.0 AND MIT", false),
            ("(MIT OR GPL-3.0) AND ISC", true),
            ("(MIT AND GPL-3.0) OR GPL-2.0", false),
            ("Apache-2.0", false),
            ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
            ("", false),
            ("(MIT", false),
        ] {
            assert_eq!(is_allowed(licence, &allowed), expected, "{licence}");
        }
    }

    #[test]
    fn what_is_not_allowed_is_named() {
        let rules = "allow = [\n  \"MIT\",\n]\ndeny = [\n  { name = \"evil\" },\n]\n";
        let crates = json!({ "packages": [
            { "name": "ours", "source": null, "license": null },
            { "name": "good", "source": REGISTRY, "license": "MIT" },
            { "name": "evil", "source": REGISTRY, "license": "MIT" },
            { "name": "paid", "source": "git+https://host/x", "license": "Mine" },
        ]});
        let breaches = breaches(rules, &crates).join("\n");
        assert_eq!(breaches.lines().count(), 3, "{breaches}");
        assert!(breaches.contains("evil: deny.toml bans it"), "{breaches}");
    }
}
