//! `cargo xtask chaos`: a real server is killed, or the power of its disk is cut, or the broker behind it
//! is killed, stopped and cut off, many times under load, and a process that survives all of it
//! compares what was acknowledged with what is there. Goes in rounds: fresh data, many faults, then the
//! verdict. What a finished round found is kept in `target/chaos/`, so a campaign can go on another day.

mod broker;
mod chance;
mod checker;
mod disk;
mod fault;
mod http;
mod judge;
mod load;
mod overseer;
mod progress;
mod proxy;
mod record;
mod results;
mod round;
mod scratch;
mod server;
mod siege;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Result;
use crate::command::Watchdog;
use broker::{Engine, Keeps};
use fault::Fault;
use progress::Tally;
use round::{Round, Stopped};
use server::Program;
use siege::Siege;

/// What is done to a backend when nobody says how often.
const SOME: u64 = 100;
/// The longest `SIGSTOP` of a broker, in a campaign and in the tests.
const STOP: Duration = Duration::from_secs(10);
const SHORT_STOP: Duration = Duration::from_secs(3);
/// How often each fault comes in the tests, and how long the faults of one broker may take there.
const FEW: u64 = 3;
const BROKER: Duration = Duration::from_mins(4);

/// What to do, from the command line.
#[derive(Debug, Clone)]
struct Options {
    backend: String,
    /// What is done to it, and how often.
    wanted: Vec<(Fault, u64)>,
    /// Stop after this long, shared between the kinds, whatever the numbers say.
    limit: Option<Duration>,
    resume: bool,
    release: bool,
    /// A server that is there already, instead of one that is built now.
    binary: Option<PathBuf>,
    longest_stop: Duration,
    /// Whether the broker keeps what it acknowledged.
    keeps: Keeps,
    /// Where records and what came of finished rounds are kept.
    home: PathBuf,
    /// The file that gets what the campaign came to.
    write: Option<PathBuf>,
}

impl Options {
    fn new(backend: &str) -> Self {
        Self {
            backend: backend.into(),
            wanted: Vec::new(),
            limit: None,
            resume: false,
            release: true,
            binary: None,
            longest_stop: STOP,
            keeps: Keeps::Everything,
            home: home(),
            write: None,
        }
    }

    /// Everything the backend has to bear, so often.
    fn each(mut self, count: u64) -> Self {
        let faults = Fault::of(&self.backend).iter();
        self.wanted = faults.map(|fault| (*fault, count)).collect();
        self
    }
}

/// What a campaign came to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// One line for each kind of fault.
    pub(crate) lines: Vec<String>,
    /// What the machine did not allow.
    pub(crate) not_allowed: Vec<String>,
    /// How many promises did not hold, and the first sentences about them.
    pub(crate) breaches: u64,
    pub(crate) broken: Vec<String>,
    /// How many acknowledged events were not there.
    lost: u64,
}

impl Report {
    fn add(&mut self, other: Self) {
        self.lines.extend(other.lines);
        self.not_allowed.extend(other.not_allowed);
        self.breaches += other.breaches;
        self.broken.extend(other.broken);
        self.lost += other.lost;
    }
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

/// A short campaign against every backend with the binary that the tests built anyway. Before it, a
/// few kills of what only remembers, a server and a broker: if the checker has nothing to say about
/// those, it is no checker.
pub(crate) fn for_some_minutes() -> Result<Report> {
    let binary = server::build(false)?;
    let options = |backend: &str| Options {
        binary: Some(binary.clone()),
        longest_stop: SHORT_STOP,
        ..Options::new(backend)
    };
    for forgetful in ["memory", "redis"] {
        finds_out(Options {
            wanted: Fault::of(forgetful)
                .iter()
                .take(1)
                .map(|fault| (*fault, FEW))
                .collect(),
            keeps: Keeps::Nothing,
            limit: Some(Duration::from_secs(20)),
            home: home().join("forgetful"),
            ..options(forgetful)
        })?;
    }
    let mut report = campaign(&Options {
        limit: Some(Duration::from_mins(1)),
        ..options("sqlite").each(u64::MAX)
    })?;
    for broker in ["redis", "postgres", "nats", "amqp"] {
        report.add(campaign(&Options {
            limit: Some(BROKER),
            ..options(broker).each(FEW)
        })?);
    }
    Ok(report)
}

/// Fails unless the checker sees that acknowledged events are gone.
fn finds_out(options: Options) -> Result {
    let report = campaign(&options)?;
    fs::remove_dir_all(&options.home)?;
    if report.lost == 0 && report.not_allowed.is_empty() {
        let backend = options.backend;
        return Err(format!("{backend} that forgets everything was not found out").into());
    }
    Ok(())
}

/// The checker's side, in its own process.
pub(crate) fn check(record: &str, seed: &str) -> Result {
    checker::serve(Path::new(record), seed.parse()?)
}

fn parse(words: &[&str]) -> Result<Options> {
    let (backend, words) = words.split_first().ok_or("chaos needs a backend")?;
    let faults = Fault::of(backend);
    if faults.is_empty() {
        return Err(format!("chaos does not know {backend}").into());
    }
    let mut options = Options::new(backend);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let called = |fault: &&Fault| word.strip_prefix("--") == Some(fault.word());
        match *word {
            "--seconds" => options.limit = Some(Duration::from_secs(number(word, words.next())?)),
            "--write" => options.write = Some(value(word, words.next())?.into()),
            "--resume" => options.resume = true,
            "--debug" => options.release = false,
            "--binary" => options.binary = Some(value(word, words.next())?.into()),
            _ => {
                let fault = faults.iter().find(called);
                let fault =
                    *fault.ok_or_else(|| format!("chaos {backend} does not know {word}"))?;
                options.wanted.push((fault, number(word, words.next())?));
            }
        }
    }
    if options.wanted.is_empty() {
        // Nobody said how many: a few, or as many as fit.
        let many = options.limit.map_or(SOME, |_| u64::MAX);
        options = options.each(many);
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
    let kinds = u32::try_from(options.wanted.len())?;
    let limit = options
        .limit
        .map_or(Duration::MAX, |limit| limit / kinds.max(1));
    for (fault, count) in &options.wanted {
        match rounds(options, &program, *fault, *count, limit) {
            Ok(tally) => {
                if let Some(file) = &options.write {
                    results::write(file, &options.backend, *fault, &tally)?;
                }
                report.lines.push(tally.summary(*fault));
                report.breaches += tally.breaches;
                report.lost += tally.lost;
                report.broken.extend(tally.broken);
            }
            Err(Stopped::NotAllowed(why)) => report.not_allowed.push(why),
            Err(Stopped::Failed(error)) => return Err(error),
        }
    }
    Ok(report)
}

/// Rounds of one kind of fault until there are `count`, the time is over, or a promise broke.
fn rounds(
    options: &Options,
    program: &Program,
    fault: Fault,
    count: u64,
    limit: Duration,
) -> std::result::Result<Tally, Stopped> {
    let home = &options.home;
    let state = home.join(format!("{}-{}.json", program.backend, fault.word()));
    let mut tally = if options.resume {
        Tally::load(&state)?
    } else {
        Tally::default()
    };
    let watch = Watchdog::over(limit);
    while tally.landed < count && tally.breaches == 0 && !watch.left().is_zero() {
        let many = fault.round().min(count - tally.landed);
        tally.add(round(options, program, fault, many, watch.left())?);
        tally.save(&state)?;
        println!("{}", tally.summary(fault));
    }
    Ok(tally)
}

fn round(
    options: &Options,
    program: &Program,
    fault: Fault,
    count: u64,
    limit: Duration,
) -> std::result::Result<Tally, Stopped> {
    let home = &options.home;
    match Engine::of(&program.backend) {
        None => Round {
            program,
            death: fault,
            deaths: count,
            limit,
            home,
        }
        .run(),
        Some(engine) => Siege {
            program,
            engine,
            keeps: options.keeps,
            fault,
            count,
            limit,
            longest_stop: options.longest_stop,
            home,
        }
        .run(),
    }
}

fn home() -> PathBuf {
    crate::root().join("target/chaos")
}

#[cfg(test)]
mod tests {
    use super::Fault;
    use super::parse;

    #[test]
    fn what_is_not_asked_for_is_not_done() {
        let wanted = |words: &str| {
            let words: Vec<&str> = words.split(' ').collect();
            parse(&words).map(|options| options.wanted).ok()
        };
        assert_eq!(wanted("sqlite --kills 5"), Some(vec![(Fault::Kill, 5)]));
        assert_eq!(
            wanted("redis --cuts 5 --resume --stops 2"),
            Some(vec![(Fault::Cut, 5), (Fault::Stop, 2)])
        );
        let some = vec![(Fault::Kill, 100), (Fault::PowerCut, 100)];
        assert_eq!(wanted("sqlite"), Some(some));
        assert_eq!(wanted("sqlite --kills many"), None);
        assert_eq!(wanted("sqlite --stops 5"), None);
        assert_eq!(wanted("--kills 5"), None);
        assert_eq!(wanted("rabbit"), None);
    }
}
