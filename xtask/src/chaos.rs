//! `cargo xtask chaos`: a real server is killed, or the power of its disk is cut, thousands of
//! times under load, and a process that survives all of it compares what was acknowledged with what
//! is there. Goes in rounds: a fresh data directory, many deaths, then the verdict. What a finished
//! round found is kept in `target/chaos/`, so a campaign can go on another day.

mod chance;
mod checker;
mod disk;
mod http;
mod judge;
mod load;
mod overseer;
mod progress;
mod record;
mod round;
mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Result;
use crate::command::Watchdog;
use progress::{Death, Progress, Tally};
use round::Round;
use server::Program;

/// Deaths in one round, after which everything is settled and compared.
const ROUND: u64 = 100;

/// What to do, from the command line.
#[derive(Debug)]
struct Options {
    backend: String,
    kills: u64,
    cuts: u64,
    /// Stop after this long, shared between kills and cuts, whatever the numbers say.
    limit: Option<Duration>,
    resume: bool,
    release: bool,
    /// A server that is there already, instead of one that is built now.
    binary: Option<PathBuf>,
}

/// What a campaign came to.
#[derive(Debug)]
pub(crate) struct Report {
    /// One line for each kind of death.
    pub(crate) lines: Vec<String>,
    /// What the machine did not allow.
    pub(crate) not_allowed: Vec<String>,
    /// How many promises did not hold, and the first sentences about them.
    pub(crate) breaches: u64,
    pub(crate) broken: Vec<String>,
}

/// The command.
pub(crate) fn run(options: &[&str]) -> Result {
    let report = campaign(&parse(options)?)?;
    for line in report.lines.iter().chain(&report.broken) {
        println!("{line}");
    }
    for line in &report.not_allowed {
        println!("!!! NOT SHOWN ON THIS MACHINE: {line}");
    }
    match report.breaches {
        0 => Ok(()),
        n => Err(format!("{n} breaches; the evidence is in {}", home().display()).into()),
    }
}

/// A short campaign with the binary that the tests built anyway, after a few kills of a server
/// that only remembers: if the checker has nothing to say about those, it is no checker.
pub(crate) fn for_a_minute() -> Result<Report> {
    let binary = server::build(false)?;
    let options = |backend: &str, count, limit| Options {
        backend: backend.into(),
        kills: count,
        cuts: if backend == "memory" { 0 } else { count },
        limit: Some(limit),
        resume: false,
        release: false,
        binary: Some(binary.clone()),
    };
    let forgetful = campaign(&options("memory", 3, Duration::from_secs(20)))?;
    if forgetful.breaches == 0 {
        return Err("a server that forgets everything was not found out".into());
    }
    campaign(&options("sqlite", u64::MAX, Duration::from_mins(1)))
}

/// The checker's side, in its own process.
pub(crate) fn check(record: &str, seed: &str) -> Result {
    checker::serve(Path::new(record), seed.parse()?)
}

fn parse(words: &[&str]) -> Result<Options> {
    let mut options = Options {
        backend: String::new(),
        kills: 100,
        cuts: 100,
        limit: None,
        resume: false,
        release: true,
        binary: None,
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--kills" => options.kills = number(word, words.next())?,
            "--cuts" => options.cuts = number(word, words.next())?,
            "--seconds" => options.limit = Some(Duration::from_secs(number(word, words.next())?)),
            "--resume" => options.resume = true,
            "--debug" => options.release = false,
            "--binary" => options.binary = Some(value(word, words.next())?.into()),
            "sqlite" | "memory" => options.backend = (*word).into(),
            _ => return Err(format!("chaos does not know {word}").into()),
        }
    }
    if options.backend.is_empty() {
        return Err("chaos needs a backend: sqlite or memory".into());
    }
    Ok(options)
}

fn value<'a>(word: &str, given: Option<&&'a str>) -> Result<&'a str> {
    given
        .copied()
        .ok_or_else(|| format!("{word} needs a value").into())
}

fn number(word: &str, given: Option<&&str>) -> Result<u64> {
    let given = value(word, given)?;
    given
        .parse()
        .map_err(|_| format!("{word}: {given} is not a number").into())
}

fn campaign(options: &Options) -> Result<Report> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => server::build(options.release)?,
    };
    let program = Program {
        binary,
        backend: options.backend.clone(),
    };
    let home = home();
    fs::create_dir_all(&home)?;
    let state = home.join(format!("{}.json", options.backend));
    let mut progress = if options.resume {
        Progress::load(&state)?
    } else {
        Progress::default()
    };
    let mut report = Report {
        lines: Vec::new(),
        not_allowed: Vec::new(),
        breaches: 0,
        broken: Vec::new(),
    };
    let (kills, cuts) = shares(options.limit);
    let wanted = [
        (Death::Kill, options.kills, kills),
        (Death::Cut, options.cuts, cuts),
    ];
    for (death, count, limit) in wanted.into_iter().filter(|(_, count, _)| *count > 0) {
        let watch = Watchdog::over(limit);
        while progress.of(death).landed < count && !watch.left().is_zero() {
            let left = count - progress.of(death).landed;
            let round = Round {
                program: &program,
                death,
                deaths: left.min(ROUND),
                limit: watch.left(),
                home: &home,
            };
            match round.run() {
                Ok(tally) => {
                    finish(&mut progress, death, tally, &state, count)?;
                }
                Err(round::Stopped::NotAllowed(why)) => {
                    report.not_allowed.push(why);
                    break;
                }
                Err(round::Stopped::Failed(error)) => return Err(error),
            }
            if progress.of(death).breaches > 0 {
                break;
            }
        }
        report.lines.push(progress.of(death).summary(death));
        report
            .broken
            .extend(progress.of(death).broken.iter().cloned());
    }
    Ok(report)
}

/// Adds a round and keeps it.
fn finish(
    progress: &mut Progress,
    death: Death,
    tally: Tally,
    state: &Path,
    wanted: u64,
) -> Result {
    progress.of(death).add(tally);
    progress.save(state)?;
    if progress.of(death).landed < wanted && wanted < u64::MAX {
        println!("{}", progress.of(death).summary(death));
    }
    Ok(())
}

/// Half of the time for each kind, if there is a limit.
fn shares(limit: Option<Duration>) -> (Duration, Duration) {
    match limit {
        Some(limit) => (limit / 2, limit / 2),
        None => (Duration::MAX, Duration::MAX),
    }
}

fn home() -> PathBuf {
    crate::root().join("target/chaos")
}
