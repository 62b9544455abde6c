//! One request of an import: its events, sending it until the server gave an answer, and what each
//! event became. Sending it again is safe, because every event has its id.

use std::time::Duration;

use fanfare::core::clock::Clock;
use fanfare::core::cloudevents;
use fanfare::core::event::Event;
use serde::Deserialize;

use super::lines::Line;
use crate::client::Client;
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
    numbers: Vec<u64>,
    events: Vec<Event>,
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
            numbers: Vec::new(),
            events: Vec::new(),
            event_bytes: 0,
            read_up_to: 0,
            last: false,
        }
    }

    pub(crate) fn push(&mut self, line: Line) {
        self.numbers.push(line.number);
        self.event_bytes += line.event.size();
        self.events.push(line.event);
    }

    pub(crate) fn is_full(&self, most: usize) -> bool {
        self.events.len() >= most || self.event_bytes >= MAX_BATCH_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
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

    /// Sends the batch until the server says what became of each event.
    pub(crate) async fn send(self, client: &Client, clock: &Clock) -> Result<Answered> {
        let body = cloudevents::to_json_batch(&self.events);
        let mut delay = FIRST_DELAY;
        for attempt in 1.. {
            let media_type = "application/cloudevents-batch+json";
            let sent = client
                .post::<Results>(&["v1", "events"], media_type, body.clone())
                .await;
            let refusal = match sent {
                Ok(answer) => return self.account(answer),
                Err(refusal) => refusal,
            };
            if !refusal.temporary || attempt >= MAX_ATTEMPTS {
                return Err(self.stopped(refusal.failure));
            }
            if attempt == 1 {
                note(&format!("{}; trying again", refusal.failure));
            }
            clock.sleep(refusal.wait.unwrap_or(delay)).await;
            delay = (delay * 2).min(LONGEST_DELAY);
        }
        Ok(Answered::default())
    }

    fn account(&self, answer: Results) -> Result<Answered> {
        if answer.results.len() != self.numbers.len() {
            return Err(Failure::failed(format!(
                "the server answered {} results for {} events",
                answer.results.len(),
                self.numbers.len()
            )));
        }
        let mut answered = Answered {
            bytes: self.read_up_to,
            ..Answered::default()
        };
        for (number, outcome) in self.numbers.iter().zip(answer.results) {
            match outcome {
                Outcome::Published { duplicate: false } => answered.stored += 1,
                Outcome::Published { duplicate: true } => answered.duplicates += 1,
                Outcome::Refused { error } => {
                    let reason = if error.detail.is_empty() {
                        error.title
                    } else {
                        error.detail
                    };
                    answered.refused.push((*number, reason));
                }
            }
        }
        Ok(answered)
    }

    /// Says where the import stopped, and that the same command goes on from there.
    fn stopped(&self, failure: Failure) -> Failure {
        let line = self.numbers.first().copied().unwrap_or_default();
        failure.with_context(&format!(
            "stopped before {}:{line}; run the same command again to go on",
            self.file
        ))
    }
}
