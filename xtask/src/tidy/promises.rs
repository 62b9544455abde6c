//! Each promise of the specification has a case in the conformance suite, and the suite checks
//! nothing that is not promised.

use std::collections::{BTreeMap, BTreeSet};

use super::Source;

const SPEC: &str = "docs/spec/backend-contract.md";
const LIST: &str = "crates/conformance/src/promise.rs";
const CASES: &str = "crates/conformance/src/cases/";

pub(super) fn check(sources: &[Source]) -> Vec<String> {
    let text = |path: &str| {
        let source = sources.iter().find(|source| source.path == path);
        source.map_or("", |source| source.text.as_str())
    };
    let cases = sources
        .iter()
        .filter(|source| source.path.starts_with(CASES))
        .flat_map(|source| cases(&source.text))
        .collect();
    compare(&specified(text(SPEC)), &listed(text(LIST)), &cases)
}

fn compare(
    specified: &BTreeSet<u32>,
    listed: &BTreeMap<u32, bool>,
    cases: &BTreeSet<u32>,
) -> Vec<String> {
    let mut breaches = Vec::new();
    let known = listed.keys().copied().collect();
    for n in specified.symmetric_difference(&known) {
        breaches.push(format!(
            "promise {n} stands in {SPEC} or in {LIST}, not in both"
        ));
    }
    for (n, planned) in listed {
        if cases.contains(n) == *planned {
            let has = if *planned {
                "planned, but has"
            } else {
                "promised, but has no"
            };
            breaches.push(format!("promise {n} is {has} case in {CASES}"));
        }
    }
    for n in cases.difference(&known) {
        breaches.push(format!(
            "{CASES}: a case checks promise {n}, which is not in {LIST}"
        ));
    }
    breaches
}

/// Numbers of the list items and headings that open with one: `12. ...` or `### 12. ...`.
fn specified(spec: &str) -> BTreeSet<u32> {
    spec.lines()
        .filter_map(|line| {
            let (number, _) = line.trim_start_matches('#').trim_start().split_once(". ")?;
            number.parse().ok()
        })
        .collect()
}

/// Numbers of the list, and whether each is only planned.
fn listed(code: &str) -> BTreeMap<u32, bool> {
    let numbers = |open: &str, planned| {
        let items = code.split(open).skip(1);
        let number = |item: &str| item.split(',').next()?.trim().parse().ok();
        let items: Vec<u32> = items.filter_map(number).collect();
        items.into_iter().map(move |n| (n, planned))
    };
    let promised = numbers(" promise(", false);
    promised.chain(numbers(" planned(", true)).collect()
}

/// Numbers in the tables of cases: `    name_of_the_case: 12;`, `: 12, WhatItNeeds;`, either with
/// `+ live`.
fn cases(code: &str) -> impl Iterator<Item = u32> {
    code.lines().filter_map(|line| {
        let (name, rest) = line.trim().strip_suffix(';')?.split_once(": ")?;
        let is_name = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        is_name.then(|| rest.split([',', ' ']).next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "    promise(\n 1,\n \"a\"),\n    planned(\n 2,\n \"b\"),\n";

    fn breaches(spec: &str, code: &str) -> usize {
        let cases = cases(code).collect();
        compare(&specified(spec), &listed(LIST), &cases).len()
    }

    #[test]
    fn numbers_agree_all_around() {
        assert_eq!(breaches("1. A\n2. B\n", "  holds: 1;\n"), 0);
        assert_eq!(breaches("## 1. A\n## 2. B\n", "  holds: 1 + live;\n"), 0);
        assert_eq!(breaches("1. A\n", "  holds: 1;\n"), 1);
        assert_eq!(breaches("1. A\n2. B\n3. C\n", "  holds: 1;\n"), 1);
        assert_eq!(breaches("1. A\n2. B\n", ""), 1);
        assert_eq!(
            breaches("1. A\n2. B\n", "  holds: 1;\n  too: 2, Order;\n"),
            1
        );
        assert_eq!(breaches("1. A\n2. B\n", "  holds: 1;\n  stray: 3;\n"), 1);
    }
}
