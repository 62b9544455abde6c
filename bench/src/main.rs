//! The load tool: every figure of Fanfare stands beside that of the raw client that does the same
//! work, taken alternately in one run. Absolute figures move from machine to machine; ratios are
//! what is promised (`docs/design/performance.md`). Not a test: nothing here fails on a figure.

#![expect(
    clippy::cast_precision_loss,
    reason = "figures for people need no 53rd bit"
)]

mod amqp;
mod compare;
mod cursor;
mod floor;
mod forms;
mod load;
mod machine;
mod measure;
mod memory;
mod nats;
mod ours;
mod pattern;
mod postgres;
mod redis;
mod report;
mod sqlite;
mod steady;
mod trial;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::report::Report;

/// Whatever went wrong, for the terminal.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Measures Fanfare against the raw floor in one run.
#[derive(Debug, Parser)]
#[command(name = "fanfare-bench")]
struct Options {
    /// What to measure.
    #[arg(value_enum, default_value = "all")]
    suite: Suite,
    /// Repetitions of every run.
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Divides the number of events of every run, for a quick look.
    #[arg(long, default_value_t = 1)]
    quicker: usize,
    /// Only comparisons whose title contains this, such as "idle".
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Where the databases are made; the disk that counts.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Includes the backlog of 10,000,000 events: some minutes and 6 GB of disk.
    #[arg(long)]
    huge: bool,
    /// Writes what was measured to this file as well.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Publish to handler in memory, against a tokio channel.
    Memory,
    /// Publish, consume and both on SQLite, against raw SQLite and a raw file.
    Sqlite,
    /// Publish, consume and both on a private Redis, against a raw client.
    Redis,
    /// The same on a private PostgreSQL.
    Postgres,
    /// The same on a private nats-server with JetStream.
    Nats,
    /// The same on a private RabbitMQ, with quorum queues.
    Amqp,
    /// A million events drained, and ten minutes at a steady rate, on a private PostgreSQL. Not part
    /// of everything.
    Steady,
    /// What a claim costs behind backlogs of many sizes.
    Cursor,
    /// Matching very many patterns.
    Pattern,
    /// Reading and writing one event in its forms.
    Forms,
    /// Everything.
    All,
}

impl Options {
    fn wants(&self, suite: Suite) -> bool {
        self.suite == suite || self.suite == Suite::All
    }

    /// A fresh directory on the disk that is measured.
    fn fresh_dir(&self) -> Outcome<tempfile::TempDir> {
        Ok(match &self.dir {
            Some(dir) => {
                std::fs::create_dir_all(dir)?;
                tempfile::tempdir_in(dir)?
            }
            None => tempfile::tempdir()?,
        })
    }

    /// `events`, or fewer where a quick look was asked for.
    fn events(&self, events: usize) -> usize {
        (events / self.quicker.max(1)).max(1)
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let options = Options::parse();
    let mut report = Report::new(&machine::describe(&options)?, &options.only);
    if options.wants(Suite::Pattern) {
        pattern::run(&options, &mut report);
    }
    if options.wants(Suite::Forms) {
        forms::run(&options, &mut report)?;
    }
    if options.wants(Suite::Memory) {
        memory::run(&options, &mut report).await?;
    }
    if options.wants(Suite::Sqlite) {
        sqlite::run(&options, &mut report).await?;
    }
    if options.wants(Suite::Cursor) {
        cursor::run(&options, &mut report).await?;
    }
    if options.wants(Suite::Redis) {
        redis::run(&options, &mut report).await?;
    }
    if options.wants(Suite::Postgres) {
        postgres::run(&options, &mut report).await?;
    }
    if options.wants(Suite::Nats) {
        nats::run(&options, &mut report).await?;
    }
    if options.wants(Suite::Amqp) {
        amqp::run(&options, &mut report).await?;
    }
    if options.suite == Suite::Steady {
        steady::run(&options, &mut report).await?;
    }
    if let Some(file) = &options.write {
        report.write(file)?;
    }
    Ok(())
}
