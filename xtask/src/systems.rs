//! `cargo xtask systems`: runs the tests of the example applications and writes into
//! `docs/systems.md` which test shows which row, and what came out. What a row says is written by
//! people. The rules of the house ([`check`]) keep the table and the tests together; they run
//! nothing.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::tidy::{self, Source};
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

const SYSTEMS: [System; 2] = [
    System {
        letter: 'A',
        rows: 13,
        package: "job-lifecycle",
    },
    System {
        letter: 'B',
        rows: 8,
        package: "notifications",
    },
];

/// Writes the table from a run of the tests, or from what earlier runs printed into files, of which
/// the later ones count.
pub(crate) fn run(printed: &[&str]) -> Result {
    let mut results = BTreeMap::new();
    for file in printed {
        let printed = fs::read_to_string(file)?;
        results.extend(printed.lines().filter_map(result));
    }
    if printed.is_empty() {
        let packages = SYSTEMS.iter().flat_map(|system| ["-p", system.package]);
        let options = ["test", "--locked", "--no-fail-fast"].into_iter();
        let args: Vec<&str> = options.chain(packages).collect();
        command::stream(command::cargo(&args), LIMIT, |line| {
            results.extend(result(line));
        })?;
    }
    let sources = tidy::sources()?;
    let tests = tests_of(&sources);
    let mut commit = std::process::Command::new("git");
    commit.args(["log", "-1", "--format=%cs, on %h"]);
    let commit = command::output(commit)?;
    let file = root().join(TABLE);
    let table = fs::read_to_string(&file)?;
    fs::write(&file, written(&table, &tests, &results, commit.trim()))?;
    let passed = tests.iter().filter(|test| is_ok(&results, test)).count();
    match tests.len() - passed {
        0 => Ok(()),
        others => Err(format!(
            "{others} of {} tests did not pass, or did not run",
            tests.len()
        )
        .into()),
    }
}

/// Every row has its tests, and the table names just these.
pub(crate) fn check(sources: &[Source]) -> Vec<String> {
    let table = sources.iter().find(|source| source.path == TABLE);
    let table = table.map(|source| source.text.as_str()).unwrap_or_default();
    let rows = SYSTEMS.iter().flat_map(|system| {
        let numbers = 1..=system.rows;
        numbers.map(|number| format!("{}{number}", system.letter))
    });
    compare(table, &tests_of(sources), rows)
}

/// The tests of the applications that are named after a row, in order.
fn tests_of(sources: &[Source]) -> Vec<&str> {
    let ours =
        |source: &&Source| source.path.starts_with("examples/") && source.path.contains("/tests/");
    let mut all: Vec<&str> = sources
        .iter()
        .filter(ours)
        .flat_map(|source| tests(&source.text))
        .collect();
    all.sort_unstable();
    all
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
        let there = row.named(tests);
        if there.is_empty() {
            breaches.push(format!("{TABLE}: row {id} has no test"));
        } else if there != row.tests {
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

    /// Its tests, as the table names them.
    fn named(&self, tests: &[&str]) -> String {
        let mine = tests.iter().filter(|test| self.has(test));
        let names: Vec<_> = mine.map(|test| format!("`{test}`")).collect();
        names.join("<br>")
    }
}

/// The table with the tests and results of every row, and the time of the run. A row without a test
/// says what people wrote.
fn written(table: &str, tests: &[&str], results: &Results, commit: &str) -> String {
    let line = |line: &str| {
        if line.starts_with(LAST_RUN) {
            return format!("{LAST_RUN}{commit}.\n");
        }
        let row = Row::read(line).filter(|row| tests.iter().any(|test| row.has(test)));
        let Some(row) = row else {
            return format!("{line}\n");
        };
        let mine: Vec<_> = tests.iter().filter(|test| row.has(test)).collect();
        let result = summed_up(mine.iter().map(|test| results.get(**test)));
        let Row { id, says, .. } = row;
        format!("| {id} | {says} | {} | {result} |\n", row.named(tests))
    };
    table.lines().map(line).collect()
}

/// `passed`, or how many did what.
fn summed_up<'a>(results: impl Iterator<Item = Option<&'a String>>) -> String {
    let (mut passed, mut failed, mut unseen) = (0, 0, 0);
    for result in results {
        match result.map(String::as_str) {
            Some("ok") => passed += 1,
            Some(_) => failed += 1,
            None => unseen += 1,
        }
    }
    if failed + unseen == 0 {
        return "passed".to_owned();
    }
    let counts = [(passed, "passed"), (failed, "failed"), (unseen, "not seen")];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<_> = counts
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    counts.join(", ")
}

/// What came out of each test.
type Results = BTreeMap<String, String>;

fn is_ok(results: &Results, test: &str) -> bool {
    results.get(test).is_some_and(|result| result == "ok")
}

/// Test and result of a line such as `test wire::b02_it_holds ... ok`.
fn result(line: &str) -> Option<(String, String)> {
    let (path, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let name = path.rsplit("::").next()?;
    let said = is_named_after_a_row(name) && ["ok", "FAILED"].contains(&result);
    said.then(|| (name.to_owned(), result.to_owned()))
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

    const TESTS: [&str; 4] = ["b01_one", "b01_two", "b12_it", "b12_that"];

    fn table() -> String {
        let lines = [
            "test a::b01_two ... ok",
            "test b01_one ... ok",
            "test b12_it ... FAILED",
            "test another ... ok",
            "test result: ok. 3 passed",
        ];
        let results = lines.into_iter().filter_map(result).collect();
        written(TEXT, &TESTS, &results, "2026-01-01, on abc")
    }

    #[test]
    fn the_table_gets_its_tests_and_results() {
        assert_eq!(
            table(),
            "Last run: 2026-01-01, on abc.\n\n| row | it needs | test | result |\n\
             | B1 | peace | `b01_one`<br>`b01_two` | passed |\n\
             | B12 | more | `b12_it`<br>`b12_that` | 1 failed, 1 not seen |\n"
        );
    }

    #[test]
    fn a_row_without_its_tests_is_found() {
        let breaches = |table: &str, there: &[&str]| {
            let rows = ["B1", "B12"].into_iter().map(str::to_owned);
            compare(table, there, rows).len()
        };
        assert_eq!(breaches(&table(), &TESTS), 0);
        assert_eq!(breaches(&table(), &TESTS[1..]), 1);
        assert_eq!(breaches(&table(), &TESTS[..2]), 1);
        assert_eq!(breaches("", &TESTS), 2);
    }

    #[test]
    fn tests_are_found_by_their_names() {
        let code = "fn b01_two() {}\nasync fn b01_one() {}\nfn b12_it() {}\nfn b01() {}";
        let there: Vec<&str> = tests(code).collect();
        assert_eq!(there, ["b01_two", "b01_one", "b12_it"]);
    }
}
