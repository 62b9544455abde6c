//! `fanfare import`: a file of events, one JSON object a line. Every line's event has an id made of
//! the file name, the line number and the line, so importing again, or going on after a kill, stores
//! each once. Reading lines is [`lines`]', sending batches is [`batch`]'s.

mod batch;
mod lines;

use std::fmt::Write;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};

use fanfare::core::clock::Clock;
use futures::stream::{FuturesOrdered, StreamExt};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::args::Common;
use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::output::{Output, note};
use batch::{Answered, Batch};
use lines::Lines;

/// Publish a file of events, one JSON object a line.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A line is {\"type\": .., \"data\": ..} and what else one cares to give, or a whole CloudEvent.\nStopped half way? Run the same command again: what is stored already is recognised."
)]
pub(crate) struct Import {
    /// The file; - reads standard input.
    #[arg(value_name = "FILE.jsonl")]
    file: PathBuf,
    /// Begin with this line; the lines before it are counted and passed over.
    #[arg(long, value_name = "N", default_value_t = 1)]
    from_line: u64,
    /// Events in one request.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,
    /// Requests under way at once; above 1 is faster and mixes the order of the lines.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    in_flight: u8,
}

/// The exact end of an import.
#[derive(Debug, Default, Serialize)]
struct Tally {
    stored: u64,
    duplicates: u64,
    bad: u64,
}

impl Import {
    /// Sends the file; fails when any line could not be stored, after all others were.
    pub(crate) async fn run(self, common: &Common) -> Result<()> {
        let (client, out) = (common.client()?, common.output());
        let name = file_name(&self.file);
        let (input, length) = open(&self.file)?;
        let mut import = Running {
            client,
            out,
            lines: Lines::new(input, &name, self.from_line),
            file: name,
            progress: progress_bar(length, out),
            clock: Clock::system(),
            tally: Tally::default(),
        };
        let result = tokio::select! {
            result = import.run(self.batch.into(), self.in_flight.into()) => result,
            _ = tokio::signal::ctrl_c() => Err(Failure::failed(
                "interrupted; run the same command again to go on",
            )),
        };
        import.progress.finish_and_clear();
        import.report()?;
        result?;
        if import.tally.bad > 0 {
            return Err(Failure::silent());
        }
        Ok(())
    }
}

/// An import under way.
struct Running {
    client: Client,
    out: Output,
    lines: Lines<Box<dyn BufRead + Send>>,
    file: String,
    progress: ProgressBar,
    clock: Clock,
    tally: Tally,
}

impl Running {
    async fn run(&mut self, batch_events: usize, in_flight: usize) -> Result<()> {
        let mut requests = FuturesOrdered::new();
        let mut more = true;
        loop {
            while more && requests.len() < in_flight {
                let batch = self.next_batch(batch_events)?;
                more = !batch.is_last();
                if batch.is_empty() {
                    continue;
                }
                requests.push_back(batch.send(
                    self.client.clone(),
                    self.clock.clone(),
                    self.progress.clone(),
                ));
            }
            match requests.next().await {
                Some(answered) => self.count(answered?),
                None => return Ok(()),
            }
        }
    }

    /// The next lines as one batch; lines that are no events are told at once and passed over.
    fn next_batch(&mut self, most: usize) -> Result<Batch> {
        let mut batch = Batch::new(&self.file);
        while !batch.is_full(most) {
            match self.lines.next()? {
                None => {
                    batch.close();
                    break;
                }
                Some(Ok(line)) => batch.push(line),
                Some(Err(bad)) => self.refuse(bad.number, &bad.reason),
            }
        }
        batch.read_up_to(self.lines.bytes());
        Ok(batch)
    }

    fn count(&mut self, answered: Answered) {
        self.tally.stored += answered.stored;
        self.tally.duplicates += answered.duplicates;
        for (line, reason) in answered.refused {
            self.refuse(line, &reason);
        }
        self.progress.set_position(answered.bytes);
        self.progress.set_message(self.tally.text());
    }

    fn refuse(&mut self, line: u64, reason: &str) {
        self.tally.bad += 1;
        let text = format!("{}:{line}: {reason}", self.file);
        self.progress.suspend(|| note(&text));
    }

    fn report(&self) -> Result<()> {
        if self.out.json() {
            self.out.object(&self.tally)
        } else {
            self.out.line(&self.tally.text())
        }
    }
}

impl Tally {
    fn text(&self) -> String {
        let duplicates = if self.duplicates == 1 {
            "duplicate"
        } else {
            "duplicates"
        };
        let mut text = format!("{} stored, {} {duplicates}", self.stored, self.duplicates);
        if self.bad > 0 {
            let lines = if self.bad == 1 { "line" } else { "lines" };
            // Writing to a string cannot fail.
            let _ = write!(text, ", {} bad {lines}", self.bad);
        }
        text
    }
}

fn file_name(path: &Path) -> String {
    if path == Path::new("-") {
        return "stdin".into();
    }
    path.file_name().map_or_else(
        || "stdin".into(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// The input, and how many bytes it has where that is known.
fn open(path: &Path) -> Result<(Box<dyn BufRead + Send>, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((Box::new(BufReader::new(std::io::stdin())), None));
    }
    let wrong =
        |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let file = File::open(path).map_err(wrong)?;
    let metadata = file.metadata().map_err(wrong)?;
    if metadata.is_dir() {
        return Err(Failure::usage(format!("{} is a directory", path.display())));
    }
    let length = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(BufReader::new(file)), length))
}

/// A bar for people who watch; programs and files get none.
fn progress_bar(length: Option<u64>, out: Output) -> ProgressBar {
    if out.json() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match length {
        Some(length) => (
            ProgressBar::new(length),
            "{bar:30} {percent:>3}%  {msg}  {eta} left",
        ),
        None => (ProgressBar::no_length(), "{spinner} {msg}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
