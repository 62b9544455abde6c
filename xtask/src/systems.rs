//! `cargo xtask systems`: runs the tests of the example applications and writes into
//! `docs/systems.md` which test shows which row, and what came out. What a row says is written by
//! people. The rules of the house ([`check`]) keep the table and the tests together; they run
//! nothing.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::tidy::Source;
use crate::{Result, command, root};

/// The table.
const TABLE: &str = "docs/systems.md";
/// The line that says when the results were seen.
const LAST_RUN: &str = "Last run: ";
/// Compiling included.
const LIMIT: Duration = Duration::from_mins(40);

/// A system: the letter of its rows, how many there are, and the application whose tests show them.
struct System {
    letter: char,
    rows: u32,
    package: &'static str,
}

const SYSTEMS: [System; 1] = [System {
    letter: 'B',
    rows: 8,
    package: "notifications",
}];

/// Rows that no test shows yet; the table says why.
const OPEN: [&str; 1] = ["B8"];

/// Writes the table from a run of the tests, or from what an earlier run printed into a file.
pub(crate) fn run(printed: Option<&str>) -> Result {
    let mut results = BTreeMap::new();
    if let Some(file) = printed {
        let printed = fs::read_to_string(file)?;
        results.extend(printed.lines().filter_map(result));
    } else {
        let packages = SYSTEMS.iter().flat_map(|system| ["-p", system.package]);
        let options = ["test", "--locked", "--no-fail-fast"].into_iter();
        let args: Vec<&str> = options.chain(packages).collect();
        command::stream(command::cargo(&args), LIMIT, |line| {
            results.extend(result(line));
        })?;
    }
    if results.is_empty() {
        return Err("no test ran".into());
    }
    let mut commit = std::process::Command::new("git");
    commit.args(["log", "-1", "--format=%cs, on %h"]);
    let commit = command::output(commit)?;
    let file = root().join(TABLE);
    let table = fs::read_to_string(&file)?;
    fs::write(&file, written(&table, &results, commit.trim()))?;
    match results.values().filter(|result| **result != "ok").count() {
        0 => Ok(()),
        failed => Err(format!("{failed} tests did not pass").into()),
    }
}

/// Every row has its tests, and the table names just these.
pub(crate) fn check(sources: &[Source]) -> Vec<String> {
    let table = sources.iter().find(|source| source.path == TABLE);
    let table = table.map(|source| source.text.as_str()).unwrap_or_default();
    let tests: Vec<&str> = sources
        .iter()
        .filter(|source| source.path.starts_with("examples/") && source.path.contains("/tests/"))
        .flat_map(|source| tests(&source.text))
        .collect();
    let expected = SYSTEMS.iter().flat_map(|system| {
        let rows = 1..=system.rows;
        rows.map(|number| format!("{}{number}", system.letter))
    });
    let expected = expected.filter(|id| !OPEN.contains(&id.as_str()));
    compare(table, &tests, expected)
}

fn compare(table: &str, tests: &[&str], expected: impl Iterator<Item = String>) -> Vec<String> {
    let mut breaches = Vec::new();
    for id in expected {
        let Some(row) = table
            .lines()
            .find_map(|line| Row::read(line).filter(|row| row.id == id))
        else {
            breaches.push(format!("{TABLE}: row {id} is missing"));
            continue;
        };
        let mut there: Vec<&str> = tests.iter().copied().filter(|test| row.has(test)).collect();
        there.sort_unstable();
        if there.is_empty() {
            breaches.push(format!("{TABLE}: row {id} has no test"));
        } else if there
            .iter()
            .map(|test| format!("`{test}`"))
            .ne(row.tests.split("<br>").map(str::to_owned))
        {
            breaches.push(format!(
                "{TABLE}: row {id} names other tests than there are: `cargo xtask systems`"
            ));
        }
    }
    breaches
}

/// `| B1 | what it says | tests | result |`.
struct Row<'a> {
    id: &'a str,
    says: &'a str,
    tests: &'a str,
}

impl<'a> Row<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let (id, says, tests) = (cells.next()?, cells.next()?, cells.next()?);
        let mut letters = id.chars();
        let is_id = letters.next()?.is_ascii_uppercase() && letters.as_str().parse::<u32>().is_ok();
        is_id.then_some(Self { id, says, tests })
    }

    /// Whether a test is named after this row: `b01_..` after B1.
    fn has(&self, test: &str) -> bool {
        let (letter, number) = self.id.split_at(1);
        let prefix = format!("{}{number:0>2}_", letter.to_ascii_lowercase());
        test.starts_with(&prefix)
    }
}

/// The table with the tests and results of every row, and the time of the run.
fn written(table: &str, results: &BTreeMap<String, String>, commit: &str) -> String {
    let line = |line: &str| {
        if line.starts_with(LAST_RUN) {
            return format!("{LAST_RUN}{commit}.\n");
        }
        let Some(row) = Row::read(line) else {
            return format!("{line}\n");
        };
        let tests: Vec<_> = results.iter().filter(|(test, _)| row.has(test)).collect();
        if tests.is_empty() {
            return format!("{line}\n");
        }
        let names: Vec<_> = tests.iter().map(|(test, _)| format!("`{test}`")).collect();
        let passed = tests.iter().filter(|(_, result)| *result == "ok").count();
        let result = match tests.len() - passed {
            0 => "passed".to_owned(),
            others => format!("**{others} of {} did not pass**", tests.len()),
        };
        let Row { id, says, .. } = row;
        format!("| {id} | {says} | {} | {result} |\n", names.join("<br>"))
    };
    table.lines().map(line).collect()
}

/// Test and result of a line such as `test wire::b02_it_holds ... ok`.
fn result(line: &str) -> Option<(String, String)> {
    let (path, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let name = path.rsplit("::").next()?;
    is_named_after_a_row(name).then(|| (name.to_owned(), result.to_owned()))
}

/// Functions whose names say a row.
fn tests(code: &str) -> impl Iterator<Item = &str> {
    code.split("fn ").skip(1).filter_map(|rest| {
        let name = rest.split('(').next()?;
        is_named_after_a_row(name).then_some(name)
    })
}

fn is_named_after_a_row(name: &str) -> bool {
    matches!(name.as_bytes(), [letter, tens, ones, b'_', ..]
        if letter.is_ascii_lowercase() && tens.is_ascii_digit() && ones.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Last run: never.\n\n| row | it needs | test | result |\n| B1 | peace | - | - |\n\
                        | B12 | more | - | - |\n";

    fn results() -> BTreeMap<String, String> {
        let lines = [
            "test a::b01_two ... ok",
            "test b01_one ... ok",
            "test b12_it ... FAILED",
            "test another ... ok",
            "test result: ok. 3 passed",
        ];
        lines.into_iter().filter_map(result).collect()
    }

    #[test]
    fn the_table_gets_its_tests_and_results() {
        let table = written(TEXT, &results(), "2026-01-01, on abc");
        assert_eq!(
            table,
            "Last run: 2026-01-01, on abc.\n\n| row | it needs | test | result |\n\
             | B1 | peace | `b01_one`<br>`b01_two` | passed |\n\
             | B12 | more | `b12_it` | **1 of 1 did not pass** |\n"
        );
    }

    #[test]
    fn a_row_without_its_tests_is_found() {
        let rows = || ["B1", "B12"].into_iter().map(str::to_owned);
        let table = written(TEXT, &results(), "");
        let code = "fn b01_two() {}\nasync fn b01_one() {}\nfn b12_it() {}\nfn b01() {}";
        let there: Vec<&str> = tests(code).collect();
        assert_eq!(there, ["b01_two", "b01_one", "b12_it"]);
        assert_eq!(compare(&table, &there, rows()).len(), 0);
        assert_eq!(compare(&table, &there[1..], rows()).len(), 1);
        assert_eq!(compare(&table, &there[..2], rows()).len(), 1);
        assert_eq!(compare("", &there, rows()).len(), 2);
    }
}
