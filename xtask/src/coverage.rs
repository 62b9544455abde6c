//! `cargo xtask coverage`: runs every test with counters compiled in and writes into
//! `docs/coverage.md` how many lines of each crate they ran. Lines of tests are not counted, nor is
//! the suite, which is one.

use std::collections::BTreeMap;
use std::fs;
use std::ops::AddAssign;
use std::process::Command;
use std::time::Duration;

use crate::{Result, brokers, command, root};

/// What is published.
const FIGURES: &str = "docs/coverage.md";
/// Where the lines that ran are written down.
const LINES: &str = "target/coverage.lcov";
/// Compiling included.
const LIMIT: Duration = Duration::from_hours(2);
/// The line that says when the figures were taken.
const LAST_RUN: &str = "Last run: ";
/// Less than this in a hundred lines is a failure.
const LEAST: f64 = 80.0;
/// The suite itself.
const SUITE: &str = "crates/conformance";
/// Behind it a file has nothing but tests.
const TESTS: &str = "#[cfg(test)]\nmod ";

const MISSING: &str = "cargo-llvm-cov is missing:
    rustup component add llvm-tools && cargo install cargo-llvm-cov --locked";

/// Writes the figures of a run of all tests, or of lines that an earlier run wrote down.
pub(crate) fn run(written: Option<&str>) -> Result {
    if written.is_none() {
        brokers::ensure()?;
        measure()?;
    }
    let lcov = fs::read_to_string(written.map_or_else(|| root().join(LINES), Into::into))?;
    let shares = shares(&lcov, |path| {
        let code = fs::read_to_string(root().join(path)).unwrap_or_default();
        first_test(&code)
    });
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%cs, on %h"])
        .current_dir(root());
    let commit = command::output(git)?;
    let file = root().join(FIGURES);
    let text = fs::read_to_string(&file)?;
    fs::write(&file, page(&text, &shares, commit.trim()))?;
    let all = total(&shares).percent();
    println!("{all:.1} % of the lines");
    if all < LEAST {
        return Err(format!("less than {LEAST} %").into());
    }
    Ok(())
}

fn measure() -> Result {
    let version = command::cargo(&["llvm-cov", "--version"]);
    command::output(version).map_err(|error| format!("{error}\n{MISSING}"))?;
    let mut args = vec!["llvm-cov", "--workspace", "--locked", "--no-fail-fast"];
    // A process that was killed in the middle of its notes spoils nothing but its own.
    args.extend(["--failure-mode", "all", "--lcov", "--output-path", LINES]);
    let status = command::stream(command::cargo(&args), LIMIT, |_| {})?;
    if status.success() {
        return Ok(());
    }
    Err(format!("cargo {}: {status}", args.join(" ")).into())
}

/// How many lines there are, and how many ran.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Share {
    lines: u32,
    ran: u32,
}

impl Share {
    fn percent(self) -> f64 {
        100.0 * f64::from(self.ran) / f64::from(self.lines.max(1))
    }
}

impl AddAssign for Share {
    fn add_assign(&mut self, other: Self) {
        self.lines += other.lines;
        self.ran += other.ran;
    }
}

type Shares = BTreeMap<String, Share>;

fn total(shares: &Shares) -> Share {
    let mut all = Share::default();
    for share in shares.values() {
        all += *share;
    }
    all
}

/// Adds up, by crate, what the tool wrote: files (`SF:`) and their lines (`DA:line,times`).
/// `first_test` is the line where the tests of a file begin.
fn shares(lcov: &str, first_test: impl Fn(&str) -> u32) -> Shares {
    let mut shares = Shares::new();
    let mut file = None;
    for line in lcov.lines() {
        if let Some(path) = line.strip_prefix("SF:") {
            file = member(path).map(|(member, path)| (member, first_test(path)));
        }
        let Some((member, end)) = &file else { continue };
        let counted = line.strip_prefix("DA:").and_then(|line| {
            let mut numbers = line.split(',');
            let number: u32 = numbers.next()?.parse().ok()?;
            Some((number, numbers.next()? != "0"))
        });
        if let Some((number, ran)) = counted
            && number < *end
        {
            *shares.entry((*member).into()).or_default() += Share {
                lines: 1,
                ran: ran.into(),
            };
        }
    }
    shares
}

/// The crate of a file that is part of the product, and the file's path from the root.
fn member(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix(root().to_str()?)?.trim_start_matches('/');
    let (member, file) = path.split_once("/src/")?;
    let product = ["crates/", "backends/"]
        .iter()
        .any(|kind| member.starts_with(kind));
    let is_test = file == "tests.rs" || file.ends_with("/tests.rs") || file.contains("tests/");
    (product && member != SUITE && !is_test).then_some((member, path))
}

fn first_test(code: &str) -> u32 {
    let before = code.split(TESTS).next().unwrap_or_default();
    u32::try_from(before.lines().count() + 1).unwrap_or(u32::MAX)
}

/// What people wrote, and below it the figures.
fn page(text: &str, shares: &Shares, commit: &str) -> String {
    let said = text.split(LAST_RUN).next().unwrap_or_default();
    let row = |name: &str, share: &Share| {
        let Share { lines, ran } = share;
        format!("| {name} | {lines} | {ran} | {:.1} % |\n", share.percent())
    };
    let members = shares.iter();
    let rows: String = members
        .map(|(name, share)| row(&format!("`{name}`"), share))
        .collect();
    let all = row("all", &total(shares));
    format!(
        "{said}{LAST_RUN}{commit}.\n\n| crate | lines | ran | share |\n|---|---|---|---|\n{rows}{all}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_added_up_by_crate_and_tests_are_left_out() {
        let root = root().display();
        let lcov = format!(
            "SF:{root}/crates/core/src/a.rs\nDA:1,5\nDA:2,0\nDA:9,1\nend_of_record\n\
             SF:{root}/crates/core/src/a/tests.rs\nDA:1,1\nend_of_record\n\
             SF:{root}/crates/conformance/src/a.rs\nDA:1,1\nend_of_record\n\
             SF:{root}/backends/sqlite/src/b.rs\nDA:7,1\nend_of_record\n\
             SF:/elsewhere/crates/core/src/c.rs\nDA:1,1\nend_of_record\n"
        );
        let shares = shares(&lcov, |_| 9);
        let expected = [
            ("backends/sqlite".to_owned(), Share { lines: 1, ran: 1 }),
            ("crates/core".to_owned(), Share { lines: 2, ran: 1 }),
        ];
        assert_eq!(shares, expected.into());
        assert_eq!(
            page("Said.\n\nLast run: never.\n", &shares, "2026-01-01, on abc"),
            "Said.\n\nLast run: 2026-01-01, on abc.\n\n| crate | lines | ran | share |\n\
             |---|---|---|---|\n| `backends/sqlite` | 1 | 1 | 100.0 % |\n\
             | `crates/core` | 2 | 1 | 50.0 % |\n| all | 3 | 2 | 66.7 % |\n"
        );
    }

    #[test]
    fn the_tests_of_a_file_begin_where_their_module_does() {
        assert_eq!(first_test("a\nb\n#[cfg(test)]\nmod tests {\n}\n"), 3);
        assert_eq!(first_test("a\n#[cfg(test)]\nuse b;\nc\n"), 5);
    }
}
