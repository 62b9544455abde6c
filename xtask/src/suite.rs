//! `cargo xtask test`: every step in order, none left out because another failed, then a summary
//! whose last line counts what passed and what failed.

use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::command::{self, Watchdog};
use crate::{Result, brokers, chaos, tidy};

/// For everything, compiling on two slow cores included; what has not begun by then fails.
const LIMIT: Duration = Duration::from_mins(80);

/// What a step came to.
#[derive(Debug, Default)]
struct Outcome {
    passed: u64,
    failed: u64,
    /// Tests that asked not to be run.
    ignored: u64,
    /// What the machine did not allow, and so was not shown.
    not_allowed: Vec<String>,
    note: String,
}

/// A name and what to do within the time that is left.
type Step = (&'static str, fn(Duration) -> Result<Outcome>);

const STEPS: [Step; 6] = [
    ("brokers", brokers),
    ("formatting", formatting),
    ("clippy", clippy),
    ("tidy", house),
    ("tests", tests),
    ("chaos", chaos),
];

/// Runs every step, or only those in `named`, and prints the summary.
pub(crate) fn run(named: &[&str]) -> ExitCode {
    if let Some(stranger) = named
        .iter()
        .find(|name| STEPS.iter().all(|step| step.0 != **name))
    {
        eprintln!("there is no step {stranger}");
        return ExitCode::FAILURE;
    }
    let mut table = Vec::new();
    let mut total = Outcome::default();
    let all = Watchdog::over(LIMIT);
    for (name, step) in STEPS {
        if !named.is_empty() && !named.contains(&name) {
            continue;
        }
        println!("\n=== {name}");
        let watch = Watchdog::over(all.left());
        let outcome = step(all.left()).unwrap_or_else(|error| {
            println!("{error}");
            failure(&error.to_string())
        });
        table.push(row(name, &outcome, watch.spent()));
        total.passed += outcome.passed;
        total.failed += outcome.failed;
        total.ignored += outcome.ignored;
        total.not_allowed.extend(outcome.not_allowed);
    }
    println!("\n=== summary");
    for line in table {
        println!("{line}");
    }
    for line in &total.not_allowed {
        println!("!!! NOT SHOWN ON THIS MACHINE: {line}");
    }
    if total.ignored > 0 {
        println!("{} tests ignored", total.ignored);
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    ExitCode::from(u8::from(total.failed > 0))
}

fn row(name: &str, outcome: &Outcome, spent: Duration) -> String {
    let verdict = if outcome.failed == 0 { "ok" } else { "FAILED" };
    let seconds = spent.as_secs_f64();
    let note = outcome.note.lines().next().unwrap_or_default();
    format!("{name:<12} {verdict:<7} {seconds:>7.1} s  {note}")
}

fn success(note: impl Into<String>) -> Outcome {
    Outcome {
        passed: 1,
        note: note.into(),
        ..Outcome::default()
    }
}

fn failure(note: &str) -> Outcome {
    Outcome {
        failed: 1,
        note: note.into(),
        ..Outcome::default()
    }
}

fn brokers(_: Duration) -> Result<Outcome> {
    brokers::ensure().map(success)
}

fn formatting(limit: Duration) -> Result<Outcome> {
    component("rustfmt", &["fmt", "--all", "--check"], limit)
}

fn clippy(limit: Duration) -> Result<Outcome> {
    let what = ["clippy", "--workspace", "--all-targets", "--locked"];
    let strict = ["--", "-D", "warnings"];
    component("clippy", &[&what[..], &strict[..]].concat(), limit)
}

/// A cargo command that a bare toolchain may lack.
fn component(name: &str, args: &[&str], limit: Duration) -> Result<Outcome> {
    let version: Vec<&str> = args.iter().take(1).copied().chain(["--version"]).collect();
    if command::output(command::cargo(&version)).is_err() {
        let mut add = Command::new("rustup");
        add.args(["component", "add", name]);
        if let Err(error) = command::output(add) {
            return Ok(Outcome {
                not_allowed: vec![format!("{name}, which is not installed: {error}")],
                note: "not run".into(),
                ..Outcome::default()
            });
        }
    }
    let status = command::stream(command::cargo(args), limit, |_| {})?;
    if status.success() {
        Ok(success(""))
    } else {
        Err(format!("cargo {}: {status}", args.join(" ")).into())
    }
}

fn house(_: Duration) -> Result<Outcome> {
    tidy::run().map(|()| success(""))
}

fn tests(limit: Duration) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let args = ["test", "--workspace", "--locked", "--no-fail-fast"];
    let status = command::stream(command::cargo(&args), limit, |line| {
        count(line, &mut outcome);
    })?;
    if !status.success() && outcome.failed == 0 {
        // It did not compile, or died before it could count.
        return Err(format!("cargo test: {status}").into());
    }
    outcome.note = format!("{} tests", outcome.passed + outcome.failed);
    Ok(outcome)
}

/// Some minutes of it; the long campaigns are a command of their own.
fn chaos(_: Duration) -> Result<Outcome> {
    let report = chaos::for_some_minutes()?;
    for line in &report.broken {
        println!("{line}");
    }
    let kinds = report.lines.len() as u64;
    let failed = u64::from(report.breaches > 0);
    Ok(Outcome {
        passed: kinds.saturating_sub(failed),
        failed,
        not_allowed: report.not_allowed,
        note: format!("{kinds} kinds of faults, {} breaches", report.breaches),
        ..Outcome::default()
    })
}

/// Adds up `test result: ok. 12 passed; 0 failed; 1 ignored; ...`.
fn count(line: &str, outcome: &mut Outcome) {
    let Some(result) = line.strip_prefix("test result: ") else {
        return;
    };
    let number = |what: &str| {
        let before = result.split(what).next().unwrap_or_default();
        let number = before.trim_end().rsplit(' ').next().unwrap_or_default();
        number.parse().unwrap_or(0)
    };
    outcome.passed += number("passed");
    outcome.failed += number("failed");
    outcome.ignored += number("ignored");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up() {
        let mut outcome = Outcome::default();
        count(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured",
            &mut outcome,
        );
        count(
            "test result: FAILED. 3 passed; 2 failed; 0 ignored;",
            &mut outcome,
        );
        count("test a_result_of_test ... ok", &mut outcome);
        assert_eq!(
            (outcome.passed, outcome.failed, outcome.ignored),
            (15, 2, 1)
        );
    }
}
