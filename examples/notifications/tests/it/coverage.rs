//! The published figures: for every crate of the product, and above 80 % for all together.

use std::fs;
use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const FIGURES: &str = include_str!("../../../../docs/coverage.md");
/// It is the tests.
const SUITE: &str = "crates/conformance";

#[test]
fn b08_the_published_line_coverage_is_above_80_percent() {
    let mut members: Vec<String> = ["backends", "crates"]
        .iter()
        .flat_map(|kind| there(kind))
        .collect();
    members.retain(|member| member != SUITE);
    let rows: Vec<_> = FIGURES.lines().filter_map(row).collect();
    let (all, crates) = rows.split_last().unwrap();
    let names: Vec<_> = crates
        .iter()
        .map(|(name, ..)| name.trim_matches('`'))
        .collect();
    assert_eq!(names, members);
    let sum = |count: fn(&(&str, u32, u32)) -> u32| crates.iter().map(count).sum::<u32>();
    let (lines, ran) = (sum(|row| row.1), sum(|row| row.2));
    assert_eq!(*all, ("all", lines, ran));
    assert!(ran * 100 > lines * 80, "{ran} of {lines}");
}

/// What directories there are, in order.
fn there(kind: &str) -> Vec<String> {
    let dir = fs::read_dir(Path::new(ROOT).join(kind)).unwrap();
    let names = dir.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut paths: Vec<_> = names.map(|name| format!("{kind}/{name}")).collect();
    paths.sort();
    paths
}

/// `| name | lines | ran | share |`.
fn row(line: &str) -> Option<(&str, u32, u32)> {
    let mut cells = line.strip_prefix("| ")?.split(" | ");
    let name = cells.next()?;
    let lines = cells.next()?.parse().ok()?;
    Some((name, lines, cells.next()?.parse().ok()?))
}
