//! One request of an import: its events, sending it until the server gave an answer, and what each
//! event became. Sending it again is safe, because every event has its id.

use std::time::Duration;

use fanfare::core::clock::Clock;
use fanfare::core::cloudevents;
use indicatif::ProgressBar;
use serde::Deserialize;

use super::lines::Line;
use crate::client::{Client, Refusal};
use crate::failure::{Failure, Result};
use crate::output::note;

/// The most bytes of events in a request, about half of what a server takes.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How often a request is sent before the import stops.
const MAX_ATTEMPTS: u32 = 8;
/// The delay after the first failure, doubling up to the longest.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// Events on their way to the server.
#[derive(Debug)]
pub(crate) struct Batch {
    file: String,
    lines: Vec<Line>,
    event_bytes: usize,
    read_up_to: u64,
    last: bool,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    pub(crate) stored: u64,
    pub(crate) duplicates: u64,
    /// Line numbers, and why they were refused.
    pub(crate) refused: Vec<(u64, String)>,
    /// How much of the file is settled with it.
    pub(crate) bytes: u64,
}

/// The server's answer.
#[derive(Debug, Deserialize)]
struct Results {
    results: Vec<Outcome>,
}

/// What became of one event.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Outcome {
    Refused { error: Problem },
    Published { duplicate: bool },
}

/// Why an event was refused.
#[derive(Debug, Deserialize)]
struct Problem {
    #[serde(default)]
    title: String,
    #[serde(default)]
    detail: String,
}

impl Batch {
    /// An empty batch of events from `file`.
    pub(crate) fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            lines: Vec::new(),
            event_bytes: 0,
            read_up_to: 0,
            last: false,
        }
    }

    pub(crate) fn push(&mut self, line: Line) {
        self.event_bytes += line.event.size();
        self.lines.push(line);
    }

    pub(crate) fn is_full(&self, most: usize) -> bool {
        self.lines.len() >= most || self.event_bytes >= MAX_BATCH_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// No line follows.
    pub(crate) fn close(&mut self) {
        self.last = true;
    }

    pub(crate) fn is_last(&self) -> bool {
        self.last
    }

    pub(crate) fn read_up_to(&mut self, bytes: u64) {
        self.read_up_to = bytes;
    }

    /// Sends the batch until the server says what became of each event. A request that is refused
    /// for what is in it is halved, down to the events that are at fault.
    pub(crate) async fn send(
        self,
        client: Client,
        clock: Clock,
        progress: ProgressBar,
    ) -> Result<Answered> {
        let mut answered = Answered {
            bytes: self.read_up_to,
            ..Answered::default()
        };
        let mut parts = vec![self.lines.as_slice()];
        while let Some(part) = parts.pop() {
            let refusal = match self.send_part(part, &client, &clock, &progress).await {
                Ok(results) => {
                    answered.account(part, results)?;
                    continue;
                }
                Err(refusal) => refusal,
            };
            match part {
                [line] if refusal.about_content => {
                    let reason = refusal.failure.to_string();
                    answered.refused.push((line.number, reason));
                }
                [_, _, ..] if refusal.about_content => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                _ => return Err(self.stopped(refusal.failure)),
            }
        }
        Ok(answered)
    }

    /// Sends some of the lines, again and again while that may help.
    async fn send_part(
        &self,
        part: &[Line],
        client: &Client,
        clock: &Clock,
        progress: &ProgressBar,
    ) -> Result<Results, Refusal> {
        let body = cloudevents::to_json_batch(part.iter().map(|line| &line.event));
        let mut delay = FIRST_DELAY;
        let mut attempt = 1;
        loop {
            let media_type = "application/cloudevents-batch+json";
            let sent = client
                .post(&["v1", "events"], media_type, body.clone())
                .await;
            let refusal = match sent {
                Ok(answer) => return Ok(answer),
                Err(refusal) if refusal.temporary && attempt < MAX_ATTEMPTS => refusal,
                Err(refusal) => return Err(refusal),
            };
            if attempt == 1 {
                let text = format!("{}; trying again", refusal.failure);
                progress.suspend(|| note(&text));
            }
            clock.sleep(refusal.wait.unwrap_or(delay)).await;
            delay = (delay * 2).min(LONGEST_DELAY);
            attempt += 1;
        }
    }

    /// Says where the import stopped, and that the same command goes on from there.
    fn stopped(&self, failure: Failure) -> Failure {
        let line = self.lines.first().map_or(0, |line| line.number);
        failure.with_context(&format!(
            "stopped before {}:{line}; run the same command again to go on",
            self.file
        ))
    }
}

impl Answered {
    fn account(&mut self, part: &[Line], answer: Results) -> Result<()> {
        if answer.results.len() != part.len() {
            return Err(Failure::failed(format!(
                "the server answered {} results for {} events",
                answer.results.len(),
                part.len()
            )));
        }
        for (line, outcome) in part.iter().zip(answer.results) {
            match outcome {
                Outcome::Published { duplicate: false } => self.stored += 1,
                Outcome::Published { duplicate: true } => self.duplicates += 1,
                Outcome::Refused { error } => self.refused.push((line.number, error.text())),
            }
        }
        Ok(())
    }
}

impl Problem {
    fn text(self) -> String {
        if self.detail.is_empty() {
            self.title
        } else {
            self.detail
        }
    }
}
