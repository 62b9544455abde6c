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
use progress::{Death, Tally};
use round::{Round, Stopped};
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
    /// Where records and what came of finished rounds are kept.
    home: PathBuf,
}

/// What a campaign came to.
#[derive(Debug, Default)]
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
    for line in &report.broken {
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
    let scratch = home().join("forgetful");
    let options = |backend: &str, count, limit, home: &Path| Options {
        backend: backend.into(),
        kills: count,
        cuts: if backend == "memory" { 0 } else { count },
        limit: Some(limit),
        resume: false,
        release: false,
        binary: Some(binary.clone()),
        home: home.into(),
    };
    let forgetful = campaign(&options("memory", 3, Duration::from_secs(20), &scratch))?;
    fs::remove_dir_all(&scratch)?;
    if forgetful.breaches == 0 {
        return Err("a server that forgets everything was not found out".into());
    }
    let minute = Duration::from_mins(1);
    campaign(&options("sqlite", u64::MAX, minute, &home()))
}

/// The checker's side, in its own process.
pub(crate) fn check(record: &str, seed: &str) -> Result {
    checker::serve(Path::new(record), seed.parse()?)
}

fn parse(words: &[&str]) -> Result<Options> {
    let mut options = Options {
        backend: String::new(),
        kills: 0,
        cuts: 0,
        limit: None,
        resume: false,
        release: true,
        binary: None,
        home: home(),
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
    if options.kills + options.cuts == 0 {
        // Nobody said how many: a few, or as many as fit.
        let many = if options.limit.is_some() {
            u64::MAX / 2
        } else {
            100
        };
        (options.kills, options.cuts) = (many, many);
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
    fs::create_dir_all(&options.home)?;
    let mut report = Report::default();
    let wanted = [(Death::Kill, options.kills), (Death::Cut, options.cuts)];
    let wanted = wanted.into_iter().filter(|(_, count)| *count > 0);
    let kinds = u32::try_from(wanted.clone().count())?;
    let limit = options
        .limit
        .map_or(Duration::MAX, |limit| limit / kinds.max(1));
    for (death, count) in wanted {
        match deaths(options, &program, death, count, limit) {
            Ok(tally) => {
                report.lines.push(tally.summary(death));
                report.breaches += tally.breaches;
                report.broken.extend(tally.broken);
            }
            Err(Stopped::NotAllowed(why)) => report.not_allowed.push(why),
            Err(Stopped::Failed(error)) => return Err(error),
        }
    }
    Ok(report)
}

/// Rounds of one kind of death until there are `count`, the time is over, or a promise broke.
fn deaths(
    options: &Options,
    program: &Program,
    death: Death,
    count: u64,
    limit: Duration,
) -> std::result::Result<Tally, Stopped> {
    let home = &options.home;
    let state = home.join(format!("{}-{}.json", program.backend, death.word()));
    let mut tally = if options.resume {
        Tally::load(&state)?
    } else {
        Tally::default()
    };
    let watch = Watchdog::over(limit);
    while tally.landed < count && tally.breaches == 0 && !watch.left().is_zero() {
        let round = Round {
            program,
            death,
            deaths: ROUND.min(count - tally.landed),
            limit: watch.left(),
            home,
        };
        tally.add(round.run()?);
        tally.save(&state)?;
        println!("{}", tally.summary(death));
    }
    Ok(tally)
}

fn home() -> PathBuf {
    crate::root().join("target/chaos")
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn what_is_not_asked_for_is_not_done() {
        let counts = |words: &str| {
            let words: Vec<&str> = words.split(' ').collect();
            parse(&words)
                .map(|options| (options.kills, options.cuts))
                .ok()
        };
        assert_eq!(counts("sqlite --kills 5"), Some((5, 0)));
        assert_eq!(counts("sqlite --cuts 5 --resume"), Some((0, 5)));
        assert_eq!(counts("sqlite"), Some((100, 100)));
        assert_eq!(counts("sqlite --kills many"), None);
        assert_eq!(counts("--kills 5"), None);
        assert_eq!(counts("redis"), None);
    }
}
