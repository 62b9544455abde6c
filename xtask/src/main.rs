//! `cargo xtask`: the project's own tasks. It depends on nothing of ours, so what it checks
//! cannot talk it into anything. It is not shipped.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command for people"
)]

mod brokers;
mod chaos;
mod command;
mod coverage;
mod json;
mod suite;
mod systems;
mod tidy;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

/// Every failure here ends the task and is printed, so its text is all that matters.
type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const USAGE: &str = "\
usage: cargo xtask <task>

  test [STEP..]
           everything that must hold before a change lands, or only the steps named: brokers,
           formatting, clippy, tidy, tests, chaos
  tidy     the rules of the house that no compiler checks
  systems [FILE..]
           runs the tests of the example applications, or reads what runs printed into files, and
           writes their results into docs/systems.md
  coverage [FILE]
           runs all tests with counters compiled in, or reads the lines that an earlier run wrote down,
           and writes into docs/coverage.md which share of the lines ran
  brokers  the foreign brokers' programs: installs what is missing where that is allowed
  chaos sqlite [--kills N] [--cuts N] [OPTION..]
           kills a server and cuts its power at random moments and compares what it acknowledged
           with what it holds; chaos memory shows the comparison fail
  chaos redis|postgres|nats|amqp [--kills N] [--stops N] [--cuts N] [--blackholes N] [--server-kills N]
        [--group-deletions N] [--stream-deletions N] [OPTION..]
           the same with a broker behind two servers: the broker is killed or stopped, connections
           to it are reset or go silent, servers are killed, what it keeps is deleted (on RabbitMQ a
           subscription is its queue: no group deletions)
           OPTION: --seconds N  --resume  --write FILE (results)  --debug (build)  --binary PATH";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["test", steps @ ..] => return suite::run(steps),
        ["tidy"] => tidy::run(),
        ["systems", printed @ ..] => systems::run(printed),
        ["coverage"] => coverage::run(None),
        ["coverage", written] => coverage::run(Some(written)),
        ["brokers"] => brokers::ensure().map(|note| println!("{note}")),
        ["chaos", options @ ..] => chaos::run(options),
        ["chaos-checker", record, seed] => chaos::check(record, seed),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the workspace: cargo says where we are when it runs us, and said so when it built us.
fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR");
        let mut root = manifest.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        root.pop();
        root
    })
}
