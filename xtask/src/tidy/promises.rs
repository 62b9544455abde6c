//! Each promise of the specification has a case in the conformance suite, and the suite checks
//! nothing that is not promised.

use std::collections::BTreeSet;

use super::Source;

pub(super) const SPEC: &str = "docs/spec/backend-contract.md";
const SUITE: &str = "crates/conformance/src/";

pub(super) fn check(sources: &[Source]) -> Vec<String> {
    let spec = sources.iter().find(|source| source.path == SPEC);
    let promised: BTreeSet<u32> = spec.map(|spec| promised(&spec.text)).unwrap_or_default();
    let checked: BTreeSet<u32> = sources
        .iter()
        .filter(|source| source.path.starts_with(SUITE))
        .flat_map(|source| checked(&source.text))
        .collect();
    let bare = promised.difference(&checked);
    let stray = checked.difference(&promised);
    bare.map(|n| format!("{SPEC}: promise {n} has no case in {SUITE}"))
        .chain(stray.map(|n| format!("{SUITE}: promise {n} is not in {SPEC}")))
        .collect()
}

/// Numbers of the list items and headings that open with one: `12. ...` or `### 12. ...`.
fn promised(spec: &str) -> BTreeSet<u32> {
    spec.lines()
        .filter_map(|line| {
            let (number, _) = line.trim_start_matches('#').trim_start().split_once(". ")?;
            number.parse().ok()
        })
        .collect()
}

/// Numbers given as `promise: 12` or `Promise(12)`.
fn checked(code: &str) -> impl Iterator<Item = u32> {
    ["promise: ", "Promise("]
        .into_iter()
        .flat_map(|open| code.split(open).skip(1))
        .filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            rest.get(..end)?.parse().ok()
        })
}
